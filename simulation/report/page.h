#ifndef WEFT_SIMULATION_REPORT_PAGE_H_
#define WEFT_SIMULATION_REPORT_PAGE_H_

#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace weft::simulation {

// A page that shows these runs (ReadRun) side by side, in one file that needs no other.
std::string PageOf(const std::vector<nlohmann::ordered_json>& runs);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_REPORT_PAGE_H_
