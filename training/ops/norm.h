#ifndef WEFT_TRAINING_OPS_NORM_H_
#define WEFT_TRAINING_OPS_NORM_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

namespace weft {

// A frozen normalisation over the last dimension. Layer norm: (x - mean) / sqrt(variance + epsilon) * weight + bias.
// RMS norm (Zhang and Sennrich, arXiv 1910.07467): x / sqrt(mean of squares + epsilon) * weight.
struct FrozenNorm {
  at::Tensor weight;  // [width] fp32
  at::Tensor bias;    // [width] fp32; undefined: none
  double epsilon = 0;
  bool rms = false;
};

// norm(x), x [n, width] fp32 or bf16 -> the same; statistics are fp32. Differentiable in x.
at::Tensor Normalise(const at::Tensor& x, const FrozenNorm& norm);

// {x + residual, norm(x + residual)} in one pass; differentiable in both, through both. The sum may go unused.
std::pair<at::Tensor, at::Tensor> AddAndNormalise(const at::Tensor& x, const at::Tensor& residual,
                                                  const FrozenNorm& norm);

// The leading heads of each row, head by head: x [n, columns] with norms [head_dim] for columns [0, first head_dim) by
// `first_norm` and the next `second` heads by `second_norm`; columns beyond pass through (queries, keys and values side
// by side, Qwen3). Differentiable in x.
at::Tensor NormaliseHeads(const at::Tensor& x, int64_t first, const FrozenNorm& first_norm, int64_t second,
                          const FrozenNorm& second_norm);

}  // namespace weft

#endif  // WEFT_TRAINING_OPS_NORM_H_
