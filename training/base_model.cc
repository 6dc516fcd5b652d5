#include "training/base_model.h"

#include <ATen/ops/linear.h>

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "training/models/encoder.h"
#include "training/models/family.h"
#include "training/models/mlp.h"

namespace weft {
namespace {

// One tensor of the head: the adapter's, else the base's.
absl::StatusOr<at::Tensor> HeadTensor(const BaseModel& base, const NamedTensors& adapter, const std::string& name,
                                      const std::vector<int64_t>& shape) {
  const auto found = adapter.find(name);
  if (found == adapter.end()) return base.weights().Get("", name, shape, base.device());
  if (found->second.sizes() != shape) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapter tensor ", name, " has shape [", absl::StrJoin(found->second.sizes(), ", "),
                     "], expected [", absl::StrJoin(shape, ", "), "] (labels of the task, width of the base)"));
  }
  return found->second;
}

// The kind of network that a model_type stands for.
absl::StatusOr<std::unique_ptr<Model>> CreateModel(const BaseDescription& description, const BaseWeights& weights,
                                                   at::Device device) {
  if (description.model_type == "mlp") return Mlp::Create(description, weights, device);
  WEFT_ASSIGN_OR_RETURN(const Family* family, FindFamily(description.model_type));
  WEFT_ASSIGN_OR_RETURN(const EncoderConfig config, ReadEncoderConfig(*family, description.config));
  return Encoder::Create(*family, config, weights, device);
}

}  // namespace

absl::StatusOr<std::unique_ptr<BaseModel>> BaseModel::Open(const std::string& folder, at::Device device) {
  WEFT_ASSIGN_OR_RETURN(const std::string config_json, ReadFile(folder + "/config.json"));
  WEFT_ASSIGN_OR_RETURN(BaseDescription description, DescribeBase(config_json));
  std::unique_ptr<BaseModel> base(new BaseModel(std::move(description), device));
  WEFT_ASSIGN_OR_RETURN(base->weights_, BaseWeights::Open(folder));
  WEFT_ASSIGN_OR_RETURN(base->model_, CreateModel(base->description_, *base->weights_, device));
  return base;
}

absl::StatusOr<Classifier> Classifier::Create(const BaseModel& base, const std::vector<FrozenLinear>& linears,
                                              const TorchForm& form, const NamedTensors& adapter, int64_t num_labels) {
  WEFT_ASSIGN_OR_RETURN(AttachedForm attached, form.Attach(linears, adapter));
  Classifier result(base.model(), linears, std::move(attached));
  const std::string& head = base.description().head_name;
  WEFT_ASSIGN_OR_RETURN(result.head_weight_,
                        HeadTensor(base, adapter, head + ".weight", {num_labels, base.description().hidden_size}));
  WEFT_ASSIGN_OR_RETURN(result.head_bias_, HeadTensor(base, adapter, head + ".bias", {num_labels}));
  return result;
}

at::Tensor Classifier::Logits(const Batch& batch, DropoutSource& dropout) const {
  return at::linear(model_->Forward(batch, *linears_, form_, dropout), head_weight_, head_bias_);
}

}  // namespace weft
