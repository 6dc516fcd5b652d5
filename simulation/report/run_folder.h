#ifndef WEFT_SIMULATION_REPORT_RUN_FOLDER_H_
#define WEFT_SIMULATION_REPORT_RUN_FOLDER_H_

#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "proto/scenario.pb.h"
#include "proto/status.pb.h"

namespace weft::simulation {

// A client on its own rows, at the end.
struct ClientFigures {
  std::string client;
  int64_t train_rows = 0;
  uint64_t test_rows = 0;
  int64_t rounds = 0;  // that it took part in
  std::optional<double> accuracy, loss;
  std::string shift, attack;  // empty: none
  int64_t max_rank = 0;       // 0: all
};

// What a run has come to.
struct RunSummary {
  std::string state;  // "finished", "failed"
  std::string message;
  std::string version, device;
  int threads = 0;
  int64_t population = 0;
  int64_t parameters = 0;
  int64_t best_round = 0;
  double best_accuracy = 0;
  double peak_memory_mb = 0;
  std::optional<double> delta;
  std::optional<double> target_accuracy;  // whose first round is to be named
};

// One folder for one run, in formats that others read:
//   scenario.json   the effective scenario
//   rounds.jsonl    an object for each round; what was not measured is left out, what is no number (a loss that has
//                   diverged) is null
//   rounds.csv      the same as a table
//   events.out.tfevents.weft  the same for TensorBoard
//   clients.json, report.html, summary.json  at the end, in this order: with a summary the run is finished
// Rounds are written as they come, so that a run can be watched.
class RunFolder {
 public:
  // FAILED_PRECONDITION: the folder holds a run of another scenario. How a run is carried out (`run`, but for what its
  // bits depend on) may change.
  static absl::Status Check(const std::string& folder, const proto::Scenario& scenario);
  // Makes the folder or goes on in it: what it held of rounds is written anew from `rounds`. Errors as Check.
  static absl::StatusOr<std::unique_ptr<RunFolder>> Open(const std::string& folder, const proto::Scenario& scenario,
                                                         std::span<const proto::RoundStatus> rounds);

  // Errors: RESOURCE_EXHAUSTED when the disk is full.
  absl::Status Add(const proto::RoundStatus& round);
  absl::Status Finish(const RunSummary& summary, const std::vector<ClientFigures>& clients);

 private:
  RunFolder(std::string folder, nlohmann::ordered_json scenario)
      : folder_(std::move(folder)), scenario_(std::move(scenario)) {}

  const std::string folder_;
  const nlohmann::ordered_json scenario_;
  std::vector<nlohmann::ordered_json> rounds_;
  std::ofstream jsonl_, csv_, events_;
  absl::Time time_ = absl::Now();  // of the last event
};

// One round as rounds.jsonl has it.
nlohmann::ordered_json RoundToJson(const proto::RoundStatus& round);

// A run that was written before, as the page shows it: {"name", "scenario", "rounds": [...], "clients": [...],
// "summary": {...}}. NOT_FOUND: no run there, or not finished; DATA_LOSS: not as a run writes it.
absl::StatusOr<nlohmann::ordered_json> ReadRun(const std::string& folder);

// Whether the folder holds a finished run of this scenario.
bool IsFinished(const std::string& folder, const proto::Scenario& scenario);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_REPORT_RUN_FOLDER_H_
