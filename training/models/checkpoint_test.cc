#include "training/models/checkpoint.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

namespace weft {
namespace {

using Tensors = TensorPair;

struct Computed {
  at::Tensor y, x_gradient, leaf_gradient;
  int runs = 0;
};

Computed Compute(bool checkpointed, bool input_learns) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({4, 4}).requires_grad_(input_learns), leaf = at::randn({4, 4}).requires_grad_(true);
  Computed result;
  const auto f = [&](const Tensors& in) {
    ++result.runs;
    return Tensors{at::mm(in[0], leaf).tanh() + in[1], at::mm(in[1], in[0])};
  };
  const Tensors out = checkpointed ? Checkpoint(f, {x, x}) : f({x, x});
  result.y = (out[0] * out[0]).sum() + (out[1] * 2).sum();
  result.y.backward();
  result.x_gradient = x.grad();
  result.leaf_gradient = leaf.grad();
  return result;
}

// The same operations: the same bits, but for the order in which an input's parts of its gradient are added.
TEST(CheckpointTest, GivesTheSameResultsAndGradients) {
  const Computed plain = Compute(false, true), again = Compute(true, true);
  EXPECT_EQ(plain.runs, 1);
  EXPECT_EQ(again.runs, 2);
  EXPECT_TRUE(plain.y.equal(again.y));
  EXPECT_LT((plain.x_gradient - again.x_gradient).abs().max().item<float>(), 1e-5f);
  EXPECT_TRUE(plain.leaf_gradient.equal(again.leaf_gradient));
}

TEST(CheckpointTest, LeavesLearnWhereNoInputDoes) {
  const Computed plain = Compute(false, false), again = Compute(true, false);
  EXPECT_TRUE(plain.leaf_gradient.equal(again.leaf_gradient));
  EXPECT_FALSE(again.x_gradient.defined());
}

TEST(CheckpointTest, ComputesOnceWithoutGradients) {
  const at::AutoGradMode off(false);
  int runs = 0;
  const Tensors out = Checkpoint(
      [&](const Tensors& in) {
        ++runs;
        return Tensors{in[0] * 2, in[1]};
      },
      {at::randn({2}), at::randn({2})});
  EXPECT_EQ(runs, 1);
  EXPECT_FALSE(out[0].requires_grad());
}

}  // namespace
}  // namespace weft
