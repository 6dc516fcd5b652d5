#ifndef WEFT_TRAINING_BASE_CHANGE_H_
#define WEFT_TRAINING_BASE_CHANGE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "training/models/frozen_linear.h"

namespace weft {

// `linears` with W + scale * B A in place of W for each module that `step` names, as Trainer::AddToBase says. Modules
// that do not change share their weights with `linears`. INVALID_ARGUMENT as there.
absl::StatusOr<std::vector<FrozenLinear>> AddToLinears(const std::vector<FrozenLinear>& linears, const Adapter& step,
                                                       double scale);

}  // namespace weft

#endif  // WEFT_TRAINING_BASE_CHANGE_H_
