#include "training/base_model.h"

#include <utility>

#include "common/file.h"
#include "common/status_macros.h"
#include "training/models/mlp.h"

namespace weft {

absl::StatusOr<std::unique_ptr<BaseModel>> BaseModel::Open(const std::string& folder, at::Device device) {
  WEFT_ASSIGN_OR_RETURN(const std::string config_json, ReadFile(folder + "/config.json"));
  WEFT_ASSIGN_OR_RETURN(BaseDescription description, DescribeBase(config_json));
  std::unique_ptr<BaseModel> base(new BaseModel(std::move(description), device));
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<BaseWeights> weights, BaseWeights::Open(folder, base->description_.prefix));
  if (base->description_.transformer.has_value()) {
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<TransformerModel> transformer,
                          TransformerModel::Create(base->description_, *weights, device));
    base->transformer_ = transformer.get();
    base->model_ = std::move(transformer);
  } else {
    WEFT_ASSIGN_OR_RETURN(base->model_, Mlp::Create(base->description_, *weights, device));
  }
  base->weights_ = std::move(weights);
  return base;
}

absl::StatusOr<at::Tensor> BaseModel::Get(const std::string& name, const std::vector<int64_t>& shape) const {
  WEFT_ASSIGN_OR_RETURN(const at::Tensor tensor, weights_->Get(name, shape));
  return tensor.to(device_, at::kFloat);
}

}  // namespace weft
