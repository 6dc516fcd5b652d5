#ifndef WEFT_TRAINING_BASE_MODEL_H_
#define WEFT_TRAINING_BASE_MODEL_H_

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "training/forms/form.h"
#include "training/models/encoder.h"
#include "training/models/packed_batch.h"
#include "training/models/weights.h"

namespace weft {

// A base on a device, loaded once and frozen. Immutable.
class BaseModel {
 public:
  // `folder`: Hugging Face folder. NOT_FOUND: config.json or weights missing; INVALID_ARGUMENT: they do not fit each
  // other or no family.
  static absl::StatusOr<std::unique_ptr<BaseModel>> Open(const std::string& folder, at::Device device);

  const BaseDescription& description() const { return description_; }
  const Encoder& encoder() const { return *encoder_; }
  const BaseWeights& weights() const { return *weights_; }
  at::Device device() const { return device_; }

 private:
  BaseModel(BaseDescription description, at::Device device) : description_(std::move(description)), device_(device) {}

  const BaseDescription description_;
  const at::Device device_;
  std::unique_ptr<BaseWeights> weights_;
  std::unique_ptr<Encoder> encoder_;
};

// A base with an adapter attached, as a classifier of texts: logits = W pooled + b, where the head's W and b are the
// adapter's, or the base's own when the adapter has none. Refers to base and linears, which must outlive it, and shares
// the adapter's tensors.
class TextClassifier {
 public:
  // linears: the base's, or a job's in their place. INVALID_ARGUMENT: as TorchForm::Attach; a head of another shape; no
  // head in the adapter nor in the base.
  static absl::StatusOr<TextClassifier> Create(const BaseModel& base, const std::vector<FrozenLinear>& linears,
                                               const TorchForm& form, const NamedTensors& adapter, int64_t num_labels);
  // [rows, labels].
  at::Tensor Logits(const PackedBatch& batch, DropoutSource& dropout) const;

 private:
  TextClassifier(const Encoder& encoder, const std::vector<FrozenLinear>& linears, AttachedForm form)
      : encoder_(&encoder), linears_(&linears), form_(std::move(form)) {}

  const Encoder* encoder_;
  const std::vector<FrozenLinear>* linears_;
  AttachedForm form_;
  at::Tensor head_weight_;  // [labels, hidden]
  at::Tensor head_bias_;    // [labels]
};

}  // namespace weft

#endif  // WEFT_TRAINING_BASE_MODEL_H_
