#ifndef WEFT_TRAINING_OPTIMIZER_H_
#define WEFT_TRAINING_OPTIMIZER_H_

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/job.pb.h"

namespace weft {

// Steps over one flat tensor of values with its flat gradient: of one member, or of several with the same
// hyper-parameters, one after another. Weight decay is decoupled in both rules: values shrink by learning rate *
// weight_decay before the step (Loshchilov and Hutter, arXiv 1711.05101). Holds its own moments; not thread-safe.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // values, gradient: [n] fp32 on one device, contiguous. Changes values in place. The learning rate is the config's
  // times `factor` (training/learning_rate.h); moments do not depend on it.
  virtual void Step(at::Tensor& values, const at::Tensor& gradient, double factor) = 0;
};

// "adamw": as torch.optim.AdamW with betas 0.9 and 0.999, epsilon 1e-8. "sgd": momentum as torch.optim.SGD (no
// dampening). INVALID_ARGUMENT: another optimizer.
absl::StatusOr<std::unique_ptr<Optimizer>> CreateOptimizer(const proto::TrainingConfig& config);

// Scales the gradients of one member so that their L2 norm, all together, is at most max_norm, as
// torch.nn.utils.clip_grad_norm_; 0 leaves them as they are. Does not wait for the device.
void ClipGradient(double max_norm, std::vector<at::Tensor>& gradients);

}  // namespace weft

#endif  // WEFT_TRAINING_OPTIMIZER_H_
