#ifndef WEFT_SIMULATION_SCENARIO_SETTING_NAMES_H_
#define WEFT_SIMULATION_SCENARIO_SETTING_NAMES_H_

#include <string>
#include <vector>

namespace weft::simulation {

// Of each setting the last words of its path that tell it from the others, without a "name" at the end:
// job.aggregator.name -> aggregator, job.training.learning_rate -> learning_rate.
std::vector<std::string> ShortNames(const std::vector<std::string>& settings);

// A value in one line: of a mapping its name and what else it says, "dp clip_norm=0.3 rule=fedavg".
std::string ShortValue(const std::string& value);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_SCENARIO_SETTING_NAMES_H_
