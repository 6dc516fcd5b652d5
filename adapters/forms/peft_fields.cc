#include "adapters/forms/peft_fields.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "adapters/forms/target_modules.h"

namespace weft {
namespace {

using Json = nlohmann::json;

// Off in every sense PEFT's fields have.
bool IsOff(const Json& value) {
  return value.is_null() || value == false || value == "none" || (value.is_structured() && value.empty());
}

}  // namespace

absl::Status RefusedField(const std::string& key, const Json& value, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "adapter_config.json: \"", key, "\" is ", value.dump(-1, ' ', false, Json::error_handler_t::replace), "; ", why));
}

absl::Status CheckOthersOff(const Json& peft_config, const std::set<std::string>& harmless) {
  // Of every form.
  static const std::set<std::string> kCommon = {"peft_type",       "task_type",     "auto_mapping",
                                                "revision",        "peft_version",  "base_model_name_or_path",
                                                "modules_to_save", "inference_mode"};
  for (const auto& [key, value] : peft_config.items()) {
    if (kCommon.contains(key) || harmless.contains(key) || IsOff(value)) continue;
    return RefusedField(key, value, "weft knows the form without it only; train with this field at its default");
  }
  return absl::OkStatus();
}

absl::Status CopyNumber(const Json& peft_config, const char* theirs, const char* ours,
                        google::protobuf::Struct* config) {
  const Json value = peft_config.value(theirs, Json());
  if (!value.is_number()) return RefusedField(theirs, value, "expected a number");
  (*config->mutable_fields())[ours].set_number_value(value.get<double>());
  return absl::OkStatus();
}

absl::Status CopyTargets(const Json& peft_config, google::protobuf::Struct* config) {
  constexpr char kName[] = "target_modules";
  const Json targets = peft_config.value(kName, Json());
  std::set<std::string> names;
  bool good = targets.is_array();
  if (targets.is_string() && absl::AsciiStrToLower(targets.get<std::string>()) == kAllLinear) {
    good = true;
    names.insert(kAllLinear);
  } else if (good) {
    for (const Json& target : targets) {
      good = good && target.is_string();
      if (good) names.insert(target.get<std::string>());
    }
  }
  if (!good) return RefusedField(kName, targets, "expected a list of module names");
  auto* list = (*config->mutable_fields())[kName].mutable_list_value();
  for (const std::string& name : names) list->add_values()->set_string_value(name);
  return absl::OkStatus();
}

absl::Status CopyPattern(const Json& peft_config, const char* name, google::protobuf::Struct* config) {
  const Json pattern = peft_config.value(name, Json());
  if (IsOff(pattern)) return absl::OkStatus();
  auto* values = (*config->mutable_fields())[name].mutable_struct_value()->mutable_fields();
  bool good = pattern.is_object();
  if (good) {
    for (const auto& [key, value] : pattern.items()) {
      good = good && value.is_number();
      if (good) (*values)[key].set_number_value(value.get<double>());
    }
  }
  return good ? absl::OkStatus() : RefusedField(name, pattern, "expected a number for each pattern");
}

Json PeftNumber(double value) {
  if (value == std::floor(value) && std::abs(value) < 0x1p53) return static_cast<int64_t>(value);
  return value;
}

}  // namespace weft
