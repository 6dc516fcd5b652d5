#ifndef WEFT_TRAINING_OPS_TESTING_TENSORS_H_
#define WEFT_TRAINING_OPS_TESTING_TENSORS_H_

// For tests of differentiable operations: results and gradients against those of a reference in fp64 on the same
// inputs.

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <functional>
#include <vector>

namespace weft {

using Tensors = std::vector<at::Tensor>;
using Operation = std::function<Tensors(const Tensors&)>;

// Results of f, then gradients by inputs of the sum of results times fixed numbers, all detached.
inline Tensors ResultsAndGradients(const Operation& f, const Tensors& inputs, at::ScalarType type) {
  Tensors leaves;
  for (const at::Tensor& input : inputs) leaves.push_back(input.detach().to(type).requires_grad_());
  const Tensors results = f(leaves);
  at::manual_seed(11);
  at::Tensor total;
  Tensors found;
  for (const at::Tensor& result : results) {
    // As rounded to bf16, so that all types get the same.
    const at::Tensor factors = at::randn(result.sizes()).to(at::kBFloat16).to(result.scalar_type());
    const at::Tensor term = (result * factors).sum();
    total = total.defined() ? total + term : term;
    found.push_back(result.detach());
  }
  total.backward();
  for (const at::Tensor& leaf : leaves) found.push_back(leaf.grad());
  return found;
}

// The largest |found - expected| / (1 + |expected|).
inline double LargestError(const at::Tensor& found, const at::Tensor& expected) {
  if (found.numel() == 0) return 0;
  const at::Tensor wide = expected.to(at::kDouble);
  return ((found.to(at::kDouble) - wide).abs() / (1 + wide.abs())).max().item<double>();
}

// That f in `type` is the reference in fp64 up to `tolerance`, and that a reference changed by four times that is told
// apart.
inline void ExpectSame(const Operation& f, const Operation& reference, const Tensors& inputs, at::ScalarType type,
                       double tolerance) {
  Tensors rounded;
  for (const at::Tensor& input : inputs) rounded.push_back(input.to(type));
  const Tensors found = ResultsAndGradients(f, rounded, type),
                expected = ResultsAndGradients(reference, rounded, at::kDouble);
  EXPECT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].scalar_type(), type);
    EXPECT_EQ(found[i].sizes(), expected[i].sizes());
    EXPECT_LE(LargestError(found[i], expected[i]), tolerance) << "of " << i;
    const at::Tensor perturbed = expected[i] + 4 * tolerance * (1 + expected[i].abs());
    if (found[i].numel() > 0) {
      EXPECT_GT(LargestError(found[i], perturbed), tolerance) << "of " << i;
    }
  }
}

}  // namespace weft

#endif  // WEFT_TRAINING_OPS_TESTING_TENSORS_H_
