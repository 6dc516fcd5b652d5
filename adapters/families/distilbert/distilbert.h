#ifndef WEFT_ADAPTERS_FAMILIES_DISTILBERT_DISTILBERT_H_
#define WEFT_ADAPTERS_FAMILIES_DISTILBERT_DISTILBERT_H_

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

// DistilBERT (Sanh et al., arXiv 1910.01108): BERT's shape without token types and pooler, its own keys and names.
// INVALID_ARGUMENT naming the key: missing or bad size, an activation that is not known.
absl::StatusOr<BaseDescription> DescribeDistilbert(nlohmann::json config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_DISTILBERT_DISTILBERT_H_
