#ifndef WEFT_ADAPTERS_FAMILIES_QWEN3_QWEN3_H_
#define WEFT_ADAPTERS_FAMILIES_QWEN3_QWEN3_H_

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

// Qwen3 (Yang et al., arXiv 2505.09388): Llama with norms of each head's queries and keys. INVALID_ARGUMENT as
// DescribeDecoder.
absl::StatusOr<BaseDescription> DescribeQwen3(nlohmann::json config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_QWEN3_QWEN3_H_
