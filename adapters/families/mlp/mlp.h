#ifndef WEFT_ADAPTERS_FAMILIES_MLP_MLP_H_
#define WEFT_ADAPTERS_FAMILIES_MLP_MLP_H_

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

// A multilayer perceptron over rows of features, for small experiments: {"model_type": "mlp", "sizes": [64, 96, 96,
// 10], "activation": "relu"}. Each size but the ends is the width of a linear module "layers.<i>" with relu after it;
// the last one is the labels of the base's own head, "head" (torch.nn.Linear: weight [out, in] and bias each).
// INVALID_ARGUMENT naming the key: fewer than three sizes, a size out of range, another activation.
absl::StatusOr<BaseDescription> DescribeMlp(nlohmann::json config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_MLP_MLP_H_
