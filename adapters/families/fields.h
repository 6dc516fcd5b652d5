#ifndef WEFT_ADAPTERS_FAMILIES_FIELDS_H_
#define WEFT_ADAPTERS_FAMILIES_FIELDS_H_

// Checked fields of a config.json, for the families. The text may come from anyone who submits a job, so sizes are
// bounded.

#include <cstdint>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace weft {

inline constexpr int64_t kMostLayers = 10'000;
inline constexpr int64_t kLargestSize = int64_t{1} << 30;

// An integer from 1 to `most`. INVALID_ARGUMENT naming key, value and range otherwise.
absl::StatusOr<int64_t> ReadSize(const nlohmann::json& config, const char* key, int64_t most = kLargestSize);

// A number from 0 to 1e6; `otherwise` when there is no such key. INVALID_ARGUMENT for anything else.
absl::StatusOr<double> ReadNumber(const nlohmann::json& config, const char* key, double otherwise);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_FIELDS_H_
