#ifndef WEFT_ADAPTERS_FAMILIES_QWEN2_QWEN2_H_
#define WEFT_ADAPTERS_FAMILIES_QWEN2_QWEN2_H_

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

// Qwen2 (Yang et al., arXiv 2407.10671): Llama with biases of query, key and value. INVALID_ARGUMENT as
// DescribeDecoder.
absl::StatusOr<BaseDescription> DescribeQwen2(nlohmann::json config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_QWEN2_QWEN2_H_
