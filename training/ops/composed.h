#ifndef WEFT_TRAINING_OPS_COMPOSED_H_
#define WEFT_TRAINING_OPS_COMPOSED_H_

// The operations of norm.h and activation.h by ATen's operators alone, differentiable by autograd: what runs off the
// CPU, and the check of what runs on it (in fp64, too).

#include <ATen/core/Tensor.h>

#include "training/ops/activation.h"
#include "training/ops/norm.h"

namespace weft {

// Over the last dimension.
at::Tensor ComposedNorm(const at::Tensor& x, const FrozenNorm& norm);
at::Tensor ComposedHeadNorms(const at::Tensor& x, int64_t first, const FrozenNorm& first_norm, int64_t second,
                             const FrozenNorm& second_norm);
at::Tensor ComposedActivation(const at::Tensor& x, Activation activation);
at::Tensor ComposedGatedActivation(const at::Tensor& gate_up, Activation activation);

}  // namespace weft

#endif  // WEFT_TRAINING_OPS_COMPOSED_H_
