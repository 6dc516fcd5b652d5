#ifndef WEFT_TRAINING_OPS_LOSSES_H_
#define WEFT_TRAINING_OPS_LOSSES_H_

// Losses with their gradients, by hand and outside autograd. A line is what one prediction is made for: a row, a token,
// a pair of texts. With label smoothing e a line's target is 1 - e on its label plus e spread evenly over all, as
// torch.nn.CrossEntropyLoss has it.

#include <ATen/core/Tensor.h>

namespace weft {

struct LineLosses {
  at::Tensor losses;    // [lines] fp32, on the CPU: cross-entropy of each at its target, in nats, without smoothing
  at::Tensor correct;   // [lines] bool, on the CPU: whether the largest logit is the target's
  at::Tensor gradient;  // of sum over lines of weight * loss, where its input lies; undefined without weights
};

// logits [lines, classes] fp32; targets [lines] int64 on the CPU; weights [lines] fp32 on the CPU, or undefined: no
// gradient is wanted. gradient [lines, classes] with respect to logits.
LineLosses SoftmaxCrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights,
                               double label_smoothing);

// Of logits = hidden head^T, some lines at a time, so that they never lie in memory whole. hidden [lines, width] and
// head [vocabulary, width] of one dtype, fp32 or bf16; gradient [lines, width] of the same with respect to hidden.
LineLosses FrozenLinearCrossEntropy(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets,
                                    const at::Tensor& weights, double label_smoothing);

// SoftmaxCrossEntropy by ATen's operators alone, logits also bf16: what runs off the CPU, and the check of what runs on
// it.
LineLosses ComposedCrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights,
                                double label_smoothing);

struct PairLosses {
  LineLosses lines;                   // gradient undefined
  at::Tensor a_gradient, b_gradient;  // [pairs, width] fp32, where a lies; undefined with weight 0
};

// a, b [pairs, width] fp32: a_i shall find b_i among all b, by the cosine of the two over `temperature` (van den Oord
// et al., arXiv 1807.03748, equation 4). Each line weighs `weight`.
PairLosses ContrastivePairs(const at::Tensor& a, const at::Tensor& b, double temperature, double weight,
                            double label_smoothing);

}  // namespace weft

#endif  // WEFT_TRAINING_OPS_LOSSES_H_
