#ifndef WEFT_ADAPTERS_FAMILIES_MISTRAL_MISTRAL_H_
#define WEFT_ADAPTERS_FAMILIES_MISTRAL_MISTRAL_H_

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

// Mistral (Jiang et al., arXiv 2310.06825): Llama with a sliding window. INVALID_ARGUMENT as DescribeDecoder.
absl::StatusOr<BaseDescription> DescribeMistral(nlohmann::json config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_MISTRAL_MISTRAL_H_
