#ifndef WEFT_ADAPTERS_FAMILIES_ROBERTA_ROBERTA_H_
#define WEFT_ADAPTERS_FAMILIES_ROBERTA_ROBERTA_H_

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

// RoBERTa (Liu et al., arXiv 1907.11692): BERT's shape without a pooler, its positions begin behind the padding token's
// row. INVALID_ARGUMENT naming the key: missing or bad size, another choice than its network has.
absl::StatusOr<BaseDescription> DescribeRoberta(nlohmann::json config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_ROBERTA_ROBERTA_H_
