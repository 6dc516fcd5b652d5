#ifndef WEFT_TRAINING_CROSS_ENTROPY_H_
#define WEFT_TRAINING_CROSS_ENTROPY_H_

#include <ATen/core/Tensor.h>

namespace weft {

struct LossAndGradient {
  double mean;          // over rows, in nats
  at::Tensor gradient;  // of the mean by the logits, [rows, labels]
};

// Cross-entropy of softmax(logits) [rows, labels] fp32 at labels [rows] int64, and its gradient at once, outside
// autograd: what ATen takes six kernels for.
LossAndGradient MeanCrossEntropy(const at::Tensor& logits, const at::Tensor& labels);

}  // namespace weft

#endif  // WEFT_TRAINING_CROSS_ENTROPY_H_
