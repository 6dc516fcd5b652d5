#ifndef WEFT_ADAPTERS_FORMS_TARGET_MODULES_H_
#define WEFT_ADAPTERS_FORMS_TARGET_MODULES_H_

// target_modules of the forms that sit on modules of the base, matched as PEFT does.

#include <google/protobuf/repeated_field.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/base.h"

namespace weft {

using Targets = google::protobuf::RepeatedPtrField<std::string>;

// As the only target: every linear module of the base.
inline constexpr char kAllLinear[] = "all-linear";

// Those of `modules` that a target names by its full path or by its last parts, in their order, each once.
// INVALID_ARGUMENT: a target that names none (lists the candidates); `what` the modules are, for the message.
absl::StatusOr<std::vector<std::string>> MatchTargets(const std::vector<std::string>& modules, const Targets& targets,
                                                      const char* what);
// The same of the base's linears; kAllLinear: all of them. INVALID_ARGUMENT: kAllLinear with others beside it.
absl::StatusOr<std::vector<LinearModule>> FindTargets(const BaseDescription& base, const Targets& targets);

// `name` as the task's model has it: without the base's prefix where it has none.
std::string NameInTask(const BaseDescription& base, const TaskDescription& task, const std::string& name);
// Targets for adapter_config.json, full paths as in the task's model. kAllLinear is spelt out: PEFT takes it to mean
// heads as well where it does not know the task.
std::vector<std::string> PeftTargets(const BaseDescription& base, const TaskDescription& task, const Targets& targets);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FORMS_TARGET_MODULES_H_
