#ifndef WEFT_TRAINING_MODELS_CHECKPOINT_H_
#define WEFT_TRAINING_MODELS_CHECKPOINT_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <functional>

namespace weft {

using TensorPair = std::array<at::Tensor, 2>;

// f(inputs), of which only the inputs are kept: on the way back f is computed again (Chen et al., arXiv 1604.06174). f
// must compute the same each time; leaves that it reads get their gradients as ever. f and what it refers to must
// outlive the backward pass. Both inputs may be the same tensor.
TensorPair Checkpoint(std::function<TensorPair(const TensorPair&)> f, const TensorPair& inputs);

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_CHECKPOINT_H_
