#ifndef WEFT_TRAINING_BASE_CHANGE_H_
#define WEFT_TRAINING_BASE_CHANGE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/base.h"
#include "training/models/frozen_linear.h"

namespace weft {

// `linears` with W + scale * B A in place of W for each module that `step` names, as Trainer::AddToBase says; scales by
// module of the base. Products of modules that do not change are shared with `linears`. INVALID_ARGUMENT as there.
absl::StatusOr<std::vector<FrozenLinear>> AddToLinears(const std::vector<FrozenLinear>& linears,
                                                       const BaseDescription& base, const Adapter& step,
                                                       const std::vector<double>& scales, at::Device device);

}  // namespace weft

#endif  // WEFT_TRAINING_BASE_CHANGE_H_
