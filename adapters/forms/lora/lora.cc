#include "adapters/forms/lora/lora.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "adapters/forms/lora/lora.pb.h"
#include "adapters/forms/lora/patterns.h"
#include "adapters/forms/peft_fields.h"
#include "adapters/forms/target_modules.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "proto/schema.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr char kEndA[] = ".lora_A.weight", kEndB[] = ".lora_B.weight";

class Lora : public Form {
 public:
  Lora(proto::LoraConfig config, ModulePatterns ranks, ModulePatterns alphas)
      : config_(std::move(config)), ranks_(std::move(ranks)), alphas_(std::move(alphas)) {}

  absl::StatusOr<std::vector<TensorSpec>> Tensors(const BaseDescription& base) const override {
    WEFT_ASSIGN_OR_RETURN(const std::vector<LinearModule> modules, FindTargets(base, config_.target_modules()));
    const std::vector<std::string> names = NamesOf(modules);
    WEFT_RETURN_IF_ERROR(ranks_.Check(names));
    WEFT_RETURN_IF_ERROR(alphas_.Check(names));
    std::vector<TensorSpec> tensors;
    for (const LinearModule& module : modules) {
      const int64_t rank = Rank(module.name);
      tensors.push_back({module.name + kEndA, kRoleLoraA, {rank, module.in_features}});
      tensors.push_back({module.name + kEndB, kRoleLoraB, {module.out_features, rank}});
    }
    return tensors;
  }

  void Initialise(const BaseDescription& base, uint64_t seed, Adapter* adapter) const override {
    (void)base;
    Reinitialise(seed, adapter).IgnoreError();  // has none
  }

  absl::Status Reinitialise(uint64_t seed, Adapter* adapter) const override {
    for (const TensorSpec& spec : adapter->layout().tensors()) {
      if (spec.role == kRoleLoraB) std::fill_n(adapter->tensor(spec).begin(), spec.size, 0.0f);
      if (spec.role != kRoleLoraA) continue;
      const double bound = 1 / std::sqrt(static_cast<double>(spec.shape[1]));
      Philox random(seed, StreamId(spec.name));
      for (float& value : adapter->tensor(spec)) value = static_cast<float>((2.0 * random.NextFloat() - 1) * bound);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Json> PeftConfig(const BaseDescription& base, const TaskDescription& task) const override {
    WEFT_ASSIGN_OR_RETURN(const std::vector<LinearModule> modules, FindTargets(base, config_.target_modules()));
    const std::vector<std::string> names = NamesOf(modules);
    std::vector<std::string> peft_names;
    for (const std::string& name : names) peft_names.push_back(NameInTask(base, task, name));
    const bool transposed = std::any_of(modules.begin(), modules.end(),
                                        [](const LinearModule& module) { return module.stored_transposed; });
    return Json{{"peft_type", "LORA"},
                {"r", config_.rank()},
                {"lora_alpha", PeftNumber(config_.alpha())},
                {"lora_dropout", config_.dropout()},
                {"target_modules", PeftTargets(base, task, config_.target_modules())},
                {"bias", "none"},
                {"fan_in_fan_out", transposed},
                {"init_lora_weights", true},
                {"use_rslora", config_.use_rslora()},
                {"use_dora", false},
                {"rank_pattern", ranks_.ForPeft(names, peft_names)},
                {"alpha_pattern", alphas_.ForPeft(names, peft_names)},
                {"layers_to_transform", nullptr},
                {"layers_pattern", nullptr}};
  }

  double Scale(const std::string& module) const override {
    return alphas_.Find(module).value_or(config_.alpha()) / Divisor(Rank(module));
  }

  absl::StatusOr<google::protobuf::Struct> WithRank(const BaseDescription& base, int64_t rank) const override {
    WEFT_ASSIGN_OR_RETURN(const std::vector<LinearModule> modules, FindTargets(base, config_.target_modules()));
    const auto alpha = [&](const LinearModule& module) { return Scale(module.name) * Divisor(rank); };
    google::protobuf::Struct config;
    auto& fields = *config.mutable_fields();
    fields["rank"].set_number_value(static_cast<double>(rank));
    fields["alpha"].set_number_value(alpha(modules.front()));
    fields["dropout"].set_number_value(config_.dropout());
    fields["use_rslora"].set_bool_value(config_.use_rslora());
    for (const std::string& target : config_.target_modules()) {
      fields["target_modules"].mutable_list_value()->add_values()->set_string_value(target);
    }
    for (const LinearModule& module : modules) {
      if (alpha(module) == alpha(modules.front())) continue;
      auto& pattern = *fields["alpha_pattern"].mutable_struct_value()->mutable_fields();
      pattern[QuotedPattern(module.name)].set_number_value(alpha(module));
    }
    return config;
  }

  absl::Status Merge(const Adapter& adapter, const MergedModule& module, std::span<float> weight,
                     std::span<float> bias) const override {
    if (weight.empty() && !bias.empty()) return absl::OkStatus();
    const TensorSpec* a = adapter.layout().Find(module.name + kEndA);
    const TensorSpec* b = adapter.layout().Find(module.name + kEndB);
    if (a == nullptr || b == nullptr || a->shape[1] != module.columns || b->shape[0] != module.rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("module ", module.name, ": found no pair of LoRA factors of its width, expected both"));
    }
    AddProduct(adapter.tensor(*a), adapter.tensor(*b), a->shape[0], Scale(module.name), weight);
    return absl::OkStatus();
  }

 private:
  static std::vector<std::string> NamesOf(const std::vector<LinearModule>& modules) {
    std::vector<std::string> names;
    for (const LinearModule& module : modules) names.push_back(module.name);
    return names;
  }

  // w [out, in] += scale b a, with a [rank, in] and b [out, rank]; in fp32.
  static void AddProduct(std::span<const float> a, std::span<const float> b, int64_t rank, double scale,
                         std::span<float> w) {
    const size_t in = a.size() / rank;
    std::vector<float> row(in);
    for (size_t o = 0; o < b.size() / rank; ++o) {
      std::fill(row.begin(), row.end(), 0.0f);
      for (int64_t j = 0; j < rank; ++j) {
        const float factor = b[(o * rank) + j];
        const float* component = a.data() + (j * in);
        for (size_t i = 0; i < in; ++i) row[i] += factor * component[i];
      }
      for (size_t i = 0; i < in; ++i) w[(o * in) + i] += static_cast<float>(scale) * row[i];
    }
  }

  int64_t Rank(const std::string& module) const {
    const std::optional<double> own = ranks_.Find(module);
    return own.has_value() ? static_cast<int64_t>(*own) : config_.rank();
  }
  double Divisor(int64_t rank) const {
    const auto r = static_cast<double>(rank);
    return config_.use_rslora() ? std::sqrt(r) : r;
  }

  const proto::LoraConfig config_;
  const ModulePatterns ranks_, alphas_;
};

absl::Status CheckPlain(const Json& peft_config) {
  // Read below, or about how an adapter starts, or about the base's storage (which the base itself says).
  static const std::set<std::string> kHarmless = {
      "r",          "lora_alpha",     "lora_dropout",      "target_modules", "use_rslora",    "rank_pattern",
      "eva_config", "fan_in_fan_out", "init_lora_weights", "alpha_pattern",  "megatron_core", "qalora_group_size"};
  WEFT_RETURN_IF_ERROR(CheckOthersOff(peft_config, kHarmless));
  const Json init = peft_config.value("init_lora_weights", Json(true));
  if (init.is_boolean() || init == "gaussian" || init == "eva" || init == "orthogonal") return absl::OkStatus();
  return RefusedField(
      "init_lora_weights", init,
      "this initialisation may have changed the base; save with path_initial_model_for_weight_conversion, which "
      "turns it into plain LoRA");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Form>> CreateLora(const google::protobuf::Struct& config) {
  proto::LoraConfig lora;
  WEFT_RETURN_IF_ERROR(proto::FromStruct(config, "adapter.config", &lora));
  WEFT_ASSIGN_OR_RETURN(ModulePatterns ranks, ModulePatterns::Create("rank_pattern", {lora.rank_pattern().begin(),
                                                                                      lora.rank_pattern().end()}));
  WEFT_ASSIGN_OR_RETURN(ModulePatterns alphas, ModulePatterns::Create("alpha_pattern", {lora.alpha_pattern().begin(),
                                                                                        lora.alpha_pattern().end()}));
  return std::make_unique<Lora>(std::move(lora), std::move(ranks), std::move(alphas));
}

absl::StatusOr<google::protobuf::Struct> LoraFromPeft(const Json& peft_config) {
  WEFT_RETURN_IF_ERROR(CheckPlain(peft_config));
  google::protobuf::Struct config;
  WEFT_RETURN_IF_ERROR(CopyNumber(peft_config, "r", "rank", &config));
  WEFT_RETURN_IF_ERROR(CopyNumber(peft_config, "lora_alpha", "alpha", &config));
  WEFT_RETURN_IF_ERROR(CopyNumber(peft_config, "lora_dropout", "dropout", &config));
  WEFT_RETURN_IF_ERROR(CopyTargets(peft_config, &config));
  WEFT_RETURN_IF_ERROR(CopyPattern(peft_config, "rank_pattern", &config));
  WEFT_RETURN_IF_ERROR(CopyPattern(peft_config, "alpha_pattern", &config));
  if (peft_config.value("use_rslora", Json()) == true) (*config.mutable_fields())["use_rslora"].set_bool_value(true);
  return config;
}

}  // namespace weft
