#include "training/models/frozen_linear.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <array>

namespace weft {
namespace {

// Two ways to order the sums of a product; measured 2e-6 of the largest element.
constexpr double kTolerance = 1e-5;

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

// Shapes of MiniLM, and odd ones.
TEST(FrozenLinearTest, EqualsLinearWithItsGradient) {
  at::manual_seed(1);
  for (const auto [rows, out, in] :
       {std::array<int64_t, 3>{416, 1536, 384}, {32, 384, 1536}, {1, 5, 7}, {17, 3, 129}}) {
    const at::Tensor weight = at::randn({out, in}), bias = at::randn({out}), given = at::randn({rows, in});
    const FrozenLinear linear("m", weight, bias);
    const at::Tensor x = given.clone().requires_grad_(), again = given.clone().requires_grad_();
    const at::Tensor y = linear.Forward(x), expected = at::linear(again, weight, bias);
    (y * y).sum().backward();
    (expected * expected).sum().backward();
    EXPECT_LT(Difference(y, expected), kTolerance);
    EXPECT_LT(Difference(x.grad(), again.grad()), kTolerance);
    EXPECT_GT(Difference(linear.Forward(given * 1.0001), expected), kTolerance);
    EXPECT_EQ(linear.out_features(), out);
    EXPECT_EQ(linear.in_features(), in);
  }
}

TEST(FrozenLinearTest, Forward_KeepsNoGraphForAConstantInput) {
  const FrozenLinear linear("m", at::randn({3, 4}), at::randn({3}));
  EXPECT_FALSE(linear.Forward(at::randn({2, 4})).requires_grad());
}

}  // namespace
}  // namespace weft
