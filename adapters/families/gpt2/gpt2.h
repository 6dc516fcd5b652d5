#ifndef WEFT_ADAPTERS_FAMILIES_GPT2_GPT2_H_
#define WEFT_ADAPTERS_FAMILIES_GPT2_GPT2_H_

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

// GPT-2 (Radford et al., 2019): a decoder with learned positions; one module for query, key and value, and weights that
// lie as [in, out]. INVALID_ARGUMENT naming the key: missing or bad size, another choice than its network has.
absl::StatusOr<BaseDescription> DescribeGpt2(nlohmann::json config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_GPT2_GPT2_H_
