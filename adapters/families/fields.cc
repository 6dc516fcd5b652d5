#include "adapters/families/fields.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace weft {
namespace {

using Json = nlohmann::json;

struct NamedActivation {
  const char* name;
  Activation activation;
};

// The tanh formula has several names, which differ in how they were once computed.
constexpr NamedActivation kActivations[] = {
    {"gelu", Activation::kGelu},
    {"gelu_python", Activation::kGelu},
    {"gelu_new", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
    {"relu", Activation::kRelu},
    {"tanh", Activation::kTanh},
};

std::string Found(const Json& config, const char* key) {
  const auto found = config.find(key);
  return found == config.end() ? "nothing" : Shown(*found);
}

absl::Status Bad(const Json& config, const char* key, const std::string& expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("config.json: \"", key, "\" must be ", expected, ", found ", Found(config, key)));
}

}  // namespace

bool HasValue(const Json& config, const char* key) {
  const auto found = config.find(key);
  return found != config.end() && !found->is_null();
}

std::string Shown(const Json& value) {
  // Invalid UTF-8 is replaced, since dump would throw.
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<int64_t> ReadSize(const Json& config, const char* key, int64_t most) {
  const auto found = config.find(key);
  // A number beyond int64 is kept as unsigned, and would turn negative below.
  if (found != config.end() && found->is_number_integer()) {
    const auto value = found->get<int64_t>();
    if (value >= 1 && value <= most) return value;
  }
  return Bad(config, key, absl::StrCat("an integer from 1 to ", most));
}

absl::StatusOr<int64_t> ReadSizeOr(const Json& config, const char* key, int64_t otherwise) {
  return HasValue(config, key) ? ReadSize(config, key) : otherwise;
}

absl::StatusOr<double> ReadNumber(const Json& config, const char* key, double otherwise, double most) {
  const auto found = config.find(key);
  if (found == config.end()) return otherwise;
  if (found->is_number() && found->get<double>() >= 0 && found->get<double>() <= most) return found->get<double>();
  return Bad(config, key, absl::StrCat("a number from 0 to ", most));
}

absl::StatusOr<double> ReadPositive(const Json& config, const char* key, double most) {
  const auto found = config.find(key);
  if (found != config.end() && found->is_number() && found->get<double>() > 0 && found->get<double>() <= most) {
    return found->get<double>();
  }
  return Bad(config, key, absl::StrCat("a number above 0, up to ", most));
}

absl::StatusOr<bool> ReadFlag(const Json& config, const char* key, bool otherwise) {
  if (!HasValue(config, key)) return otherwise;
  const Json& found = *config.find(key);
  if (!found.is_boolean()) return Bad(config, key, "true or false");
  return found.get<bool>();
}

absl::StatusOr<Activation> ReadActivation(const Json& config, const char* key, Activation otherwise) {
  if (!HasValue(config, key)) return otherwise;
  std::string known;
  for (const NamedActivation& named : kActivations) {
    if (*config.find(key) == named.name) return named.activation;
    absl::StrAppend(&known, known.empty() ? "" : ", ", named.name);
  }
  return Bad(config, key, absl::StrCat("one of ", known));
}

absl::Status RequireValue(const Json& config, const char* key, const Json& value) {
  const auto found = config.find(key);
  if (found == config.end() || *found == value) return absl::OkStatus();
  return Bad(config, key, absl::StrCat(Shown(value), " (the network computes nothing else)"));
}

}  // namespace weft
