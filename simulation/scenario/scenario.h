#ifndef WEFT_SIMULATION_SCENARIO_SCENARIO_H_
#define WEFT_SIMULATION_SCENARIO_SCENARIO_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/scenario.pb.h"

namespace weft::simulation {

// One run of a scenario: a combination of the values that its sweep lists.
struct ScenarioRun {
  proto::Scenario scenario;                                 // with defaults, without a sweep
  std::vector<std::pair<std::string, std::string>> values;  // setting -> value as text, in order of settings
  std::string folder;                                       // of its results
};

// Reads a scenario (config/yaml.h), `overrides` as "a.b=c" applied to it and to each run, and makes its runs: one, or
// of a sweep all combinations, the last setting changing fastest; what is overridden is no longer swept. Paths in it
// become relative to the working directory. INVALID_ARGUMENT: as LoadYaml, of the combination at fault; a sweep that
// lists no values, too many runs, or a setting that can't be swept (job.name, run.out).
absl::StatusOr<std::vector<ScenarioRun>> LoadScenario(const std::string& path,
                                                      const std::vector<std::string>& overrides);

// Of everything that decides a run's bits but the contents of files: equal on all machines that run the same one.
std::string FingerprintOf(const proto::Scenario& scenario);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_SCENARIO_SCENARIO_H_
