#ifndef WEFT_ADAPTERS_FAMILIES_LLAMA_LLAMA_H_
#define WEFT_ADAPTERS_FAMILIES_LLAMA_LLAMA_H_

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

// Llama (Touvron et al., arXiv 2302.13971), with the rotary scalings of Llama 3. INVALID_ARGUMENT as DescribeDecoder.
absl::StatusOr<BaseDescription> DescribeLlama(nlohmann::json config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_LLAMA_LLAMA_H_
