#include "adapters/families/rotary.h"

#include <cmath>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/families/fields.h"
#include "common/status_macros.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr double kLargestTheta = 1e15;

// Where "factor" and the like stand; empty without scaling. The older key wins, as in transformers.
absl::StatusOr<Json> FindParameters(const Json& config) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!HasValue(config, key)) continue;
    const Json& found = *config.find(key);
    if (!found.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat("config.json: \"", key, "\" must be an object, found ", Shown(found)));
    }
    for (const Json& value : found) {
      if (value.is_object()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "config.json: \"", key, "\" differs by layer; the network turns all layers alike, found ", Shown(found)));
      }
    }
    if (!found.empty()) return found;
  }
  return Json::object();
}

// What cos and sin are multiplied by, from what Yarn's authors advise when the config does not say.
absl::StatusOr<double> ReadAttentionFactor(const Json& parameters, double factor) {
  if (HasValue(parameters, "attention_factor")) return ReadPositive(parameters, "attention_factor");
  const auto scale = [&](double by) { return factor <= 1 ? 1.0 : 0.1 * by * std::log(factor) + 1.0; };
  double mscale = 0, mscale_all = 0;
  if (HasValue(parameters, "mscale")) {
    WEFT_ASSIGN_OR_RETURN(mscale, ReadNumber(parameters, "mscale", 0));
  }
  if (HasValue(parameters, "mscale_all_dim")) {
    WEFT_ASSIGN_OR_RETURN(mscale_all, ReadNumber(parameters, "mscale_all_dim", 0));
  }
  return mscale > 0 && mscale_all > 0 ? scale(mscale) / scale(mscale_all) : scale(1);
}

absl::Status ReadLlama3(const Json& parameters, RotaryPositions* rotary) {
  rotary->scaling = RotaryPositions::Scaling::kLlama3;
  WEFT_ASSIGN_OR_RETURN(rotary->low_frequency_factor, ReadPositive(parameters, "low_freq_factor"));
  WEFT_ASSIGN_OR_RETURN(rotary->high_frequency_factor, ReadPositive(parameters, "high_freq_factor"));
  if (rotary->high_frequency_factor > rotary->low_frequency_factor) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("config.json: \"high_freq_factor\" ", rotary->high_frequency_factor,
                                                 " is not above \"low_freq_factor\" ", rotary->low_frequency_factor));
}

absl::Status ReadYarn(const Json& parameters, RotaryPositions* rotary) {
  rotary->scaling = RotaryPositions::Scaling::kYarn;
  WEFT_RETURN_IF_ERROR(RequireValue(parameters, "truncate", true));
  if (HasValue(parameters, "beta_fast")) {
    WEFT_ASSIGN_OR_RETURN(rotary->beta_fast, ReadPositive(parameters, "beta_fast"));
  }
  if (HasValue(parameters, "beta_slow")) {
    WEFT_ASSIGN_OR_RETURN(rotary->beta_slow, ReadPositive(parameters, "beta_slow"));
  }
  if (rotary->beta_fast < rotary->beta_slow) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: \"beta_fast\" ", rotary->beta_fast, " is below \"beta_slow\" ", rotary->beta_slow));
  }
  WEFT_ASSIGN_OR_RETURN(rotary->attention_factor, ReadAttentionFactor(parameters, rotary->factor));
  return absl::OkStatus();
}

absl::Status ReadScaling(const Json& config, const Json& parameters, int64_t max_positions, RotaryPositions* rotary) {
  // "type" is the older name.
  const Json type = parameters.value("rope_type", parameters.value("type", Json("default")));
  if (type == "default") return absl::OkStatus();
  if (type != "linear" && type != "llama3" && type != "yarn") {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: \"rope_type\" must be default, linear, llama3 or yarn, found ", Shown(type)));
  }
  // A length of the config itself goes before that of the parameters, as in transformers.
  const Json& place = HasValue(config, "original_max_position_embeddings") ? config : parameters;
  WEFT_ASSIGN_OR_RETURN(rotary->original_max_positions,
                        ReadSizeOr(place, "original_max_position_embeddings", max_positions));
  if (type == "yarn" && parameters.contains("factor") && !HasValue(parameters, "factor")) {
    rotary->factor = static_cast<double>(max_positions) / static_cast<double>(rotary->original_max_positions);
  } else {
    WEFT_ASSIGN_OR_RETURN(rotary->factor, ReadPositive(parameters, "factor"));
  }
  if (type == "llama3") return ReadLlama3(parameters, rotary);
  if (type == "yarn") return ReadYarn(parameters, rotary);
  rotary->scaling = RotaryPositions::Scaling::kLinear;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RotaryPositions> ReadRotary(const Json& config, int64_t head_dim, int64_t max_positions) {
  if (head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: heads have ", head_dim, " dimensions, expected an even number to turn in pairs"));
  }
  WEFT_ASSIGN_OR_RETURN(const Json parameters, FindParameters(config));
  for (const Json* place : {&config, &parameters}) {
    if (!HasValue(*place, "partial_rotary_factor")) continue;
    WEFT_RETURN_IF_ERROR(RequireValue(*place, "partial_rotary_factor", 1));
  }
  RotaryPositions rotary;
  rotary.rotated = head_dim;
  for (const Json* place : {&config, &parameters}) {
    if (!HasValue(*place, "rope_theta")) continue;
    WEFT_ASSIGN_OR_RETURN(rotary.theta, ReadPositive(*place, "rope_theta", kLargestTheta));
    if (rotary.theta <= 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("config.json: \"rope_theta\" must be above 1, found ", rotary.theta));
    }
  }
  WEFT_RETURN_IF_ERROR(ReadScaling(config, parameters, max_positions, &rotary));
  return rotary;
}

}  // namespace weft
