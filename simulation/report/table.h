#ifndef WEFT_SIMULATION_REPORT_TABLE_H_
#define WEFT_SIMULATION_REPORT_TABLE_H_

#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"

namespace weft::simulation {

// A finished run of a sweep.
struct TableRun {
  std::vector<std::pair<std::string, std::string>> values;  // setting -> value
  nlohmann::ordered_json summary;                           // summary.json
};

// One line for each combination of settings, runs that differ in seeds alone together: [{"settings": {...}, "runs": n,
// "final_accuracy": {"mean": m, "sd": s, "runs": k}, ...}], of the k runs that have the figure (those that reached an
// accuracy, those whose loss is a number); sd divides by k - 1, a single run has none. Figures that no run has are left
// out.
nlohmann::ordered_json TableOf(const std::vector<TableRun>& runs);
// The same as CSV, a column for each setting.
std::string TableCsv(const nlohmann::ordered_json& table);
// The same for a terminal.
std::string TableText(const nlohmann::ordered_json& table);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_REPORT_TABLE_H_
