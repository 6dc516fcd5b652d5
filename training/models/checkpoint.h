#ifndef WEFT_TRAINING_MODELS_CHECKPOINT_H_
#define WEFT_TRAINING_MODELS_CHECKPOINT_H_

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace weft {

// f(inputs), of which only the inputs are kept: on the way back f is computed again (Chen et al., arXiv 1604.06174). f
// must compute the same each time; leaves that it reads get their gradients as ever. f and what it refers to must
// outlive the backward pass. Inputs may be the same tensor.
std::vector<at::Tensor> Checkpoint(std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)> f,
                                   const std::vector<at::Tensor>& inputs);

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_CHECKPOINT_H_
