#include "adapters/forms/lora/lora.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/forms/lora/lora.pb.h"
#include "adapters/forms/target_modules.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "proto/schema.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr char kRoleA[] = "lora_a";
constexpr char kRoleB[] = "lora_b";

class Lora : public Form {
 public:
  explicit Lora(proto::LoraConfig config) : config_(std::move(config)) {}

  absl::StatusOr<std::vector<TensorSpec>> Tensors(const BaseDescription& base) const override {
    WEFT_ASSIGN_OR_RETURN(const std::vector<LinearModule> modules, FindTargets(base, config_.target_modules()));
    std::vector<TensorSpec> tensors;
    for (const LinearModule& module : modules) {
      tensors.push_back({module.name + ".lora_A.weight", kRoleA, {config_.rank(), module.in_features}});
      tensors.push_back({module.name + ".lora_B.weight", kRoleB, {module.out_features, config_.rank()}});
    }
    return tensors;
  }

  void Initialise(uint64_t seed, Adapter* adapter) const override {
    for (const TensorSpec& spec : adapter->layout().tensors()) {
      if (spec.role == kRoleB) std::fill_n(adapter->tensor(spec).begin(), spec.size, 0.0f);
      if (spec.role != kRoleA) continue;
      const double bound = 1 / std::sqrt(static_cast<double>(spec.shape[1]));
      Philox random(seed, StreamId(spec.name));
      for (float& value : adapter->tensor(spec)) value = static_cast<float>((2.0 * random.NextFloat() - 1) * bound);
    }
  }

  Json PeftConfig() const override {
    Json alpha = config_.alpha();
    // PEFT declares it as an integer; a fraction loads as well.
    if (config_.alpha() == std::floor(config_.alpha())) alpha = static_cast<int64_t>(config_.alpha());
    return {
        {"peft_type", "LORA"},
        {"r", config_.rank()},
        {"lora_alpha", alpha},
        {"lora_dropout", config_.dropout()},
        {"target_modules", std::vector<std::string>(config_.target_modules().begin(), config_.target_modules().end())},
        {"bias", "none"},
        {"fan_in_fan_out", false},
        {"init_lora_weights", true},
        {"use_rslora", false},
        {"use_dora", false},
        {"rank_pattern", Json::object()},
        {"alpha_pattern", Json::object()},
        {"layers_to_transform", nullptr},
        {"layers_pattern", nullptr}};
  }

  double Scale() const override { return config_.alpha() / static_cast<double>(config_.rank()); }

 private:
  const proto::LoraConfig config_;
};

absl::Status Refused(const std::string& key, const Json& value, const char* why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "adapter_config.json: \"", key, "\" is ", value.dump(-1, ' ', false, Json::error_handler_t::replace), "; ", why));
}

// Off in every sense PEFT's fields have.
bool IsOff(const Json& value) {
  return value.is_null() || value == false || value == "none" || (value.is_structured() && value.empty());
}

// Everything PEFT can switch on that would make A and B mean something else, now or in versions to come: so fields
// known to be harmless are listed and all others must be off.
absl::Status CheckPlain(const Json& peft_config) {
  static const std::set<std::string> kHarmless = {"peft_type",
                                                  "r",
                                                  "lora_alpha",
                                                  "lora_dropout",
                                                  "target_modules",
                                                  "init_lora_weights",
                                                  "task_type",
                                                  "auto_mapping",
                                                  "revision",
                                                  "modules_to_save",
                                                  "base_model_name_or_path",
                                                  "inference_mode",
                                                  "peft_version",
                                                  "eva_config",
                                                  "megatron_core",
                                                  "qalora_group_size"};
  for (const auto& [key, value] : peft_config.items()) {
    if (!kHarmless.contains(key) && !IsOff(value)) {
      return Refused(key, value, "weft knows plain LoRA only; train with this field at its default");
    }
  }
  const Json init = peft_config.value("init_lora_weights", Json(true));
  if (init.is_boolean() || init == "gaussian" || init == "eva" || init == "orthogonal") return absl::OkStatus();
  return Refused(
      "init_lora_weights", init,
      "this initialisation may have changed the base; save with path_initial_model_for_weight_conversion, which "
      "turns it into plain LoRA");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Form>> CreateLora(const google::protobuf::Struct& config) {
  proto::LoraConfig lora;
  WEFT_RETURN_IF_ERROR(proto::FromStruct(config, "adapter.config", &lora));
  return std::make_unique<Lora>(std::move(lora));
}

absl::StatusOr<google::protobuf::Struct> LoraFromPeft(const Json& peft_config) {
  WEFT_RETURN_IF_ERROR(CheckPlain(peft_config));
  google::protobuf::Struct config;
  auto& fields = *config.mutable_fields();
  const std::pair<const char*, const char*> numbers[] = {
      {"r", "rank"}, {"lora_alpha", "alpha"}, {"lora_dropout", "dropout"}};
  for (const auto& [theirs, ours] : numbers) {
    const Json value = peft_config.value(theirs, Json());
    if (!value.is_number()) return Refused(theirs, value, "expected a number");
    fields[ours].set_number_value(value.get<double>());
  }
  const Json targets = peft_config.value("target_modules", Json());
  if (!targets.is_array()) return Refused("target_modules", targets, "expected a list of module names");
  std::set<std::string> names;  // PEFT writes a set, in any order
  for (const Json& target : targets) {
    if (!target.is_string()) return Refused("target_modules", targets, "expected a list of module names");
    names.insert(target.get<std::string>());
  }
  for (const std::string& name : names) {
    fields["target_modules"].mutable_list_value()->add_values()->set_string_value(name);
  }
  return config;
}

}  // namespace weft
