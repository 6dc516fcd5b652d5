#ifndef WEFT_TRAINING_BASE_MODEL_H_
#define WEFT_TRAINING_BASE_MODEL_H_

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "training/forms/form.h"
#include "training/models/model.h"
#include "training/models/weights.h"

namespace weft {

// A base on a device, loaded once and frozen. Immutable.
class BaseModel {
 public:
  // `folder`: Hugging Face folder. NOT_FOUND: config.json or weights missing; INVALID_ARGUMENT: they do not fit each
  // other or no family.
  static absl::StatusOr<std::unique_ptr<BaseModel>> Open(const std::string& folder, at::Device device);

  const BaseDescription& description() const { return description_; }
  const Model& model() const { return *model_; }
  const BaseWeights& weights() const { return *weights_; }
  at::Device device() const { return device_; }

 private:
  BaseModel(BaseDescription description, at::Device device) : description_(std::move(description)), device_(device) {}

  const BaseDescription description_;
  const at::Device device_;
  std::unique_ptr<BaseWeights> weights_;
  std::unique_ptr<Model> model_;
};

// A base with an adapter attached, as a classifier: logits = W x + b over what the model gives, where the head's W and
// b are the adapter's, or the base's own when the adapter has none. Refers to base and linears, which must outlive it,
// and shares the adapter's tensors.
class Classifier {
 public:
  // linears: the base's, or a job's in their place. INVALID_ARGUMENT: as TorchForm::Attach; a head of another shape; no
  // head in the adapter nor in the base.
  static absl::StatusOr<Classifier> Create(const BaseModel& base, const std::vector<FrozenLinear>& linears,
                                           const TorchForm& form, const NamedTensors& adapter, int64_t num_labels);
  // [rows, labels].
  at::Tensor Logits(const Batch& batch, DropoutSource& dropout) const;

 private:
  Classifier(const Model& model, const std::vector<FrozenLinear>& linears, AttachedForm form)
      : model_(&model), linears_(&linears), form_(std::move(form)) {}

  const Model* model_;
  const std::vector<FrozenLinear>* linears_;
  AttachedForm form_;
  at::Tensor head_weight_;  // [labels, hidden]
  at::Tensor head_bias_;    // [labels]
};

}  // namespace weft

#endif  // WEFT_TRAINING_BASE_MODEL_H_
