#include "training/base_model.h"

#include <ATen/ops/linear.h>

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "training/models/family.h"

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

}  // namespace

absl::StatusOr<std::unique_ptr<BaseModel>> BaseModel::Open(const std::string& folder, at::Device device) {
  WEFT_ASSIGN_OR_RETURN(const std::string config_json, ReadFile(folder + "/config.json"));
  WEFT_ASSIGN_OR_RETURN(BaseDescription description, DescribeBase(config_json));
  WEFT_ASSIGN_OR_RETURN(const Family* family, FindFamily(description.model_type));
  WEFT_ASSIGN_OR_RETURN(const EncoderConfig config, ReadEncoderConfig(*family, description.config));
  std::unique_ptr<BaseModel> base(new BaseModel(std::move(description), device));
  WEFT_ASSIGN_OR_RETURN(base->weights_, BaseWeights::Open(folder));
  WEFT_ASSIGN_OR_RETURN(base->encoder_, Encoder::Create(*family, config, *base->weights_, device));
  return base;
}

absl::StatusOr<TextClassifier> TextClassifier::Create(const BaseModel& base, const std::vector<FrozenLinear>& linears,
                                                      const TorchForm& form, const NamedTensors& adapter,
                                                      int64_t num_labels) {
  WEFT_ASSIGN_OR_RETURN(AttachedForm attached, form.Attach(linears, adapter));
  TextClassifier result(base.encoder(), linears, std::move(attached));
  const std::string& head = base.description().head_name;
  WEFT_ASSIGN_OR_RETURN(result.head_weight_,
                        HeadTensor(base, adapter, head + ".weight", {num_labels, base.description().hidden_size}));
  WEFT_ASSIGN_OR_RETURN(result.head_bias_, HeadTensor(base, adapter, head + ".bias", {num_labels}));
  return result;
}

at::Tensor TextClassifier::Logits(const PackedBatch& batch, DropoutSource& dropout) const {
  return at::linear(encoder_->Forward(batch, *linears_, form_, dropout), head_weight_, head_bias_);
}

}  // namespace weft
