#ifndef WEFT_TRAINING_BASE_MODEL_H_
#define WEFT_TRAINING_BASE_MODEL_H_

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "training/models/model.h"
#include "training/models/transformer.h"
#include "training/models/weights.h"

namespace weft {

// A base on a device, loaded once and frozen. Immutable: threads may share it.
class BaseModel {
 public:
  // `folder`: Hugging Face folder. NOT_FOUND: config.json or weights missing; INVALID_ARGUMENT: they do not fit each
  // other or no family.
  static absl::StatusOr<std::unique_ptr<BaseModel>> Open(const std::string& folder, at::Device device);

  const BaseDescription& description() const { return description_; }
  const Model& model() const { return *model_; }
  // nullptr: the base is of another kind.
  const TransformerModel* transformer() const { return transformer_; }
  at::Device device() const { return device_; }
  // A tensor of the checkpoint beside the network, as fp32 on the device. INVALID_ARGUMENT as BaseWeights::Get.
  absl::StatusOr<at::Tensor> Get(const std::string& name, const std::vector<int64_t>& shape) const;
  // Forgets pages of the mapped weights that were read while others were made of them.
  void DropPages() const { weights_->DropPages(); }

 private:
  BaseModel(BaseDescription description, at::Device device) : description_(std::move(description)), device_(device) {}

  const BaseDescription description_;
  const at::Device device_;
  std::unique_ptr<const BaseWeights> weights_;
  std::unique_ptr<const Model> model_;
  const TransformerModel* transformer_ = nullptr;
};

}  // namespace weft

#endif  // WEFT_TRAINING_BASE_MODEL_H_
