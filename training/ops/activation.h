#ifndef WEFT_TRAINING_OPS_ACTIVATION_H_
#define WEFT_TRAINING_OPS_ACTIVATION_H_

#include <ATen/core/Tensor.h>

#include "adapters/transformer.h"

namespace weft {

// Elementwise, x [n, width] fp32 or bf16 -> the same, computed in fp32. Differentiable. kNone: x itself.
at::Tensor Activate(const at::Tensor& x, Activation activation);

// activation(gate) * up, where gate_up [n, 2 width] holds gate and up side by side -> [n, width]. Differentiable.
at::Tensor ActivateGated(const at::Tensor& gate_up, Activation activation);

}  // namespace weft

#endif  // WEFT_TRAINING_OPS_ACTIVATION_H_
