#ifndef WEFT_ADAPTERS_FAMILIES_FIELDS_H_
#define WEFT_ADAPTERS_FAMILIES_FIELDS_H_

// Checked fields of a config.json, for the families. The text may come from anyone who submits a job, so sizes are
// bounded. INVALID_ARGUMENT names key, value found and what was expected. A key that is null counts as absent where a
// value may be absent.

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/transformer.h"
#include "nlohmann/json.hpp"

namespace weft {

inline constexpr int64_t kMostLayers = 10'000;
inline constexpr int64_t kLargestSize = int64_t{1} << 30;
inline constexpr double kLargestNumber = 1e6;

// An integer from 1 to `most`.
absl::StatusOr<int64_t> ReadSize(const nlohmann::json& config, const char* key, int64_t most = kLargestSize);

// Likewise; `otherwise` when there is none.
absl::StatusOr<int64_t> ReadSizeOr(const nlohmann::json& config, const char* key, int64_t otherwise);

// A number from 0 to `most`; `otherwise` when there is no such key. Null is refused.
absl::StatusOr<double> ReadNumber(const nlohmann::json& config, const char* key, double otherwise,
                                  double most = kLargestNumber);

// A number above 0, up to `most`.
absl::StatusOr<double> ReadPositive(const nlohmann::json& config, const char* key, double most = kLargestNumber);

// true or false; `otherwise` when there is none.
absl::StatusOr<bool> ReadFlag(const nlohmann::json& config, const char* key, bool otherwise);

// By the name that transformers gives it; `otherwise` when there is none.
absl::StatusOr<Activation> ReadActivation(const nlohmann::json& config, const char* key, Activation otherwise);

// Refuses any value but this one: a choice that the network does not know. No such key is well.
absl::Status RequireValue(const nlohmann::json& config, const char* key, const nlohmann::json& value);

// Whether there is such a key and it is not null.
bool HasValue(const nlohmann::json& config, const char* key);

// A value as text, for messages.
std::string Shown(const nlohmann::json& value);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_FIELDS_H_
