#include "training/models/family.h"

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "training/models/bert/bert.h"

namespace weft {
namespace {

const Family* const kFamilies[] = {&kBert};

absl::Status ReadSize(const nlohmann::json& config, const char* key, int64_t* to) {
  const auto found = config.find(key);
  if (found == config.end() || !found->is_number_integer() || found->get<int64_t>() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: \"", key, "\" must be a positive integer, found ",
                                                   found == config.end() ? "nothing" : found->dump()));
  }
  *to = found->get<int64_t>();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<const Family*> FindFamily(const std::string& model_type) {
  std::string known;
  for (const Family* family : kFamilies) {
    if (model_type == family->model_type) return family;
    absl::StrAppend(&known, known.empty() ? "" : ", ", family->model_type);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("config.json: no encoder for model_type \"", model_type, "\"; known: ", known));
}

absl::StatusOr<EncoderConfig> ReadEncoderConfig(const Family& family, const nlohmann::json& config) {
  const EncoderConfigKeys& keys = family.keys;
  EncoderConfig result;
  WEFT_RETURN_IF_ERROR(ReadSize(config, keys.hidden, &result.hidden));
  WEFT_RETURN_IF_ERROR(ReadSize(config, keys.layers, &result.layers));
  WEFT_RETURN_IF_ERROR(ReadSize(config, keys.heads, &result.heads));
  WEFT_RETURN_IF_ERROR(ReadSize(config, keys.intermediate, &result.intermediate));
  WEFT_RETURN_IF_ERROR(ReadSize(config, keys.vocabulary, &result.vocabulary));
  WEFT_RETURN_IF_ERROR(ReadSize(config, keys.max_positions, &result.max_positions));
  WEFT_RETURN_IF_ERROR(ReadSize(config, keys.token_types, &result.token_types));
  if (result.hidden % result.heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: \"", keys.hidden, "\" ", result.hidden,
                                                   " is not a multiple of \"", keys.heads, "\" ", result.heads));
  }
  const auto epsilon = config.find(keys.norm_epsilon);
  if (epsilon == config.end() || !epsilon->is_number() || epsilon->get<double>() <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: \"", keys.norm_epsilon, "\" must be a positive number"));
  }
  result.norm_epsilon = epsilon->get<double>();
  if (const auto activation = config.find(keys.activation); activation == config.end() || *activation != "gelu") {
    return absl::InvalidArgumentError(absl::StrCat("config.json: \"", keys.activation, "\" must be \"gelu\", found ",
                                                   activation == config.end() ? "nothing" : activation->dump()));
  }
  return result;
}

}  // namespace weft
