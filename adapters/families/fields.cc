#include "adapters/families/fields.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace weft {
namespace {

constexpr double kLargestNumber = 1e6;

std::string Found(const nlohmann::json& config, const char* key) {
  const auto found = config.find(key);
  // Invalid UTF-8 is replaced, since dump would throw.
  return found == config.end() ? "nothing" : found->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

absl::StatusOr<int64_t> ReadSize(const nlohmann::json& config, const char* key, int64_t most) {
  const auto found = config.find(key);
  // A number beyond int64 is kept as unsigned, and would turn negative below.
  if (found != config.end() && found->is_number_integer()) {
    const auto value = found->get<int64_t>();
    if (value >= 1 && value <= most) return value;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("config.json: \"", key, "\" must be an integer from 1 to ", most, ", found ", Found(config, key)));
}

absl::StatusOr<double> ReadNumber(const nlohmann::json& config, const char* key, double otherwise) {
  const auto found = config.find(key);
  if (found == config.end()) return otherwise;
  if (found->is_number() && found->get<double>() >= 0 && found->get<double>() <= kLargestNumber) {
    return found->get<double>();
  }
  return absl::InvalidArgumentError(absl::StrCat("config.json: \"", key, "\" must be a number from 0 to ",
                                                 kLargestNumber, ", found ", Found(config, key)));
}

}  // namespace weft
