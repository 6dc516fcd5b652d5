#include "adapters/forms/lora/lora.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "adapters/forms/lora/lora.pb.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "proto/schema.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr char kRoleA[] = "lora_a";
constexpr char kRoleB[] = "lora_b";

// As PEFT matches a list of target_modules.
bool Matches(const std::string& module, const std::string& target) {
  return module == target || module.ends_with(absl::StrCat(".", target));
}

bool IsNumber(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
}

// Each of these names the same module in every layer: what follows the layer number.
std::string Candidates(const BaseDescription& base) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const LinearModule& module : base.linears) {
    const std::vector<std::string> parts = absl::StrSplit(module.name, '.');
    const auto number = std::find_if(parts.rbegin(), parts.rend(), IsNumber).base();
    const auto first = number == parts.end() ? parts.begin() : number;
    const std::string name = absl::StrJoin(first, parts.end(), ".");
    if (seen.insert(name).second) names.push_back(name);
  }
  return absl::StrJoin(names, ", ");
}

class Lora : public Form {
 public:
  explicit Lora(proto::LoraConfig config) : config_(std::move(config)) {}

  absl::StatusOr<std::vector<TensorSpec>> Tensors(const BaseDescription& base) const override {
    for (const std::string& target : config_.target_modules()) {
      const bool known = std::any_of(base.linears.begin(), base.linears.end(),
                                     [&](const LinearModule& module) { return Matches(module.name, target); });
      if (known) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("adapter.config.target_modules: \"", target,
                       "\" matches no linear module of the base; there are: ", Candidates(base)));
    }
    std::vector<TensorSpec> tensors;
    for (const LinearModule& module : base.linears) {
      const bool wanted = std::any_of(config_.target_modules().begin(), config_.target_modules().end(),
                                      [&](const std::string& target) { return Matches(module.name, target); });
      if (!wanted) continue;
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
