#ifndef WEFT_ADAPTERS_FORMS_TARGET_MODULES_H_
#define WEFT_ADAPTERS_FORMS_TARGET_MODULES_H_

// target_modules of the forms that sit on linear modules, matched as PEFT does.

#include <google/protobuf/repeated_field.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/base.h"

namespace weft {

// The base's linears that a target names by its full path or by its last parts, in the order of the base, each once.
// INVALID_ARGUMENT: a target that matches none (lists the candidates).
absl::StatusOr<std::vector<LinearModule>> FindTargets(const BaseDescription& base,
                                                      const google::protobuf::RepeatedPtrField<std::string>& targets);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FORMS_TARGET_MODULES_H_
