#ifndef WEFT_ADAPTERS_FAMILIES_ROTARY_H_
#define WEFT_ADAPTERS_FAMILIES_ROTARY_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "adapters/transformer.h"
#include "nlohmann/json.hpp"

namespace weft {

// Rotary positions of a config.json: either "rope_theta" and "rope_scaling", or both in "rope_parameters" (since
// transformers 5). INVALID_ARGUMENT naming the key: a rope_type other than default, linear, llama3 and yarn, an odd
// head_dim, positions that turn a part of a head only or differ by layer, a missing or bad number.
absl::StatusOr<RotaryPositions> ReadRotary(const nlohmann::json& config, int64_t head_dim, int64_t max_positions);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_ROTARY_H_
