#include "adapters/forms/ssf/ssf.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/forms/peft_fields.h"
#include "adapters/forms/ssf/ssf.pb.h"
#include "adapters/forms/target_modules.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "proto/schema.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr char kEndScale[] = ".ssf_scale", kEndShift[] = ".ssf_shift";
constexpr char kRoleScale[] = "ssf_scale", kRoleShift[] = "ssf_shift";
constexpr double kDeviation = 0.02;

struct Module {
  std::string name;
  int64_t width = 0;
};

// Every module with features that can be scaled.
std::vector<Module> Modules(const BaseDescription& base) {
  std::vector<Module> modules;
  if (base.transformer.has_value() && base.transformer->patches.has_value()) {
    modules.push_back({base.transformer->patches->projection, base.hidden_size});
  }
  for (const LinearModule& module : base.linears) modules.push_back({module.name, module.out_features});
  for (const NormModule& module : base.norms) modules.push_back({module.name, module.width});
  return modules;
}

class Ssf : public Form {
 public:
  explicit Ssf(proto::SsfConfig config) : config_(std::move(config)) {}

  absl::StatusOr<std::vector<TensorSpec>> Tensors(const BaseDescription& base) const override {
    const std::vector<Module> modules = Modules(base);
    std::vector<std::string> names;
    for (const Module& module : modules) names.push_back(module.name);
    if (config_.target_modules_size() > 0) {
      WEFT_ASSIGN_OR_RETURN(names, MatchTargets(names, config_.target_modules(), "linear module or norm"));
    }
    std::vector<TensorSpec> tensors;
    size_t next = 0;  // of names, which are in the order of modules
    for (const Module& module : modules) {
      if (next == names.size() || names[next] != module.name) continue;
      ++next;
      tensors.push_back({module.name + kEndScale, kRoleScale, {module.width}});
      tensors.push_back({module.name + kEndShift, kRoleShift, {module.width}});
    }
    return tensors;
  }

  void Initialise(const BaseDescription& base, uint64_t seed, Adapter* adapter) const override {
    (void)base;
    for (const TensorSpec& spec : adapter->layout().tensors()) {
      if (spec.role != kRoleScale && spec.role != kRoleShift) continue;
      const double mean = spec.role == kRoleScale ? 1 : 0;
      Philox random(seed, StreamId(spec.name));
      for (float& value : adapter->tensor(spec)) value = static_cast<float>(mean + random.NextNormal() * kDeviation);
    }
  }

  absl::StatusOr<Json> PeftConfig(const BaseDescription& base, const TaskDescription& task) const override {
    Json targets;
    if (config_.target_modules_size() > 0) targets = PeftTargets(base, task, config_.target_modules());
    return Json{{"peft_type", kSsfPeftType}, {"target_modules", targets}};
  }

  // diag(scale) (W x + b) + shift = (diag(scale) W) x + (scale * b + shift).
  absl::Status Merge(const Adapter& adapter, const MergedModule& module, std::span<float> weight,
                     std::span<float> bias) const override {
    const TensorSpec* scale_spec = adapter.layout().Find(module.name + kEndScale);
    const TensorSpec* shift_spec = adapter.layout().Find(module.name + kEndShift);
    if (scale_spec == nullptr || shift_spec == nullptr || scale_spec->size != module.rows ||
        shift_spec->size != module.rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("module ", module.name, ": found no scale and shift of its width, expected both"));
    }
    const std::span<const float> scale = adapter.tensor(*scale_spec), shift = adapter.tensor(*shift_spec);
    if (!module.bias && std::any_of(shift.begin(), shift.end(), [](float value) { return value != 0; })) {
      return absl::InvalidArgumentError(absl::StrCat(
          "module ", module.name, " has no bias that could take up the adapter's shift, so that it can't be merged; ",
          "load the adapter beside the base, or train one whose target_modules have biases"));
    }
    for (size_t i = 0; i < weight.size(); ++i) weight[i] *= scale[i / module.columns];
    for (size_t i = 0; i < bias.size(); ++i) bias[i] = scale[i] * bias[i] + shift[i];
    return absl::OkStatus();
  }

 private:
  const proto::SsfConfig config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Form>> CreateSsf(const google::protobuf::Struct& config) {
  proto::SsfConfig ssf;
  WEFT_RETURN_IF_ERROR(proto::FromStruct(config, "adapter.config", &ssf));
  return std::make_unique<Ssf>(std::move(ssf));
}

absl::StatusOr<google::protobuf::Struct> SsfFromPeft(const Json& peft_config) {
  WEFT_RETURN_IF_ERROR(CheckOthersOff(peft_config, {"target_modules"}));
  google::protobuf::Struct config;
  if (!peft_config.value("target_modules", Json()).is_null()) WEFT_RETURN_IF_ERROR(CopyTargets(peft_config, &config));
  return config;
}

}  // namespace weft
