#include "training/models/frozen_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <array>

namespace weft {
namespace {

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kFloat) - b).abs().max() / b.abs().max()).item<double>();
}

// Two ways to order the sums of a product; measured 2e-6 of the largest element in fp32. In bf16 both sides multiply
// the same rounded numbers, and the result is rounded once: half a unit of 8 bits, of the largest element at most.
constexpr double kTolerance = 1e-5, kTolerance16 = 4e-3;

// Shapes of MiniLM, and odd ones.
TEST(FrozenLinearTest, EqualsLinearWithItsGradient) {
  at::manual_seed(1);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const double tolerance = dtype == at::kFloat ? kTolerance : kTolerance16;
    for (const auto [rows, out, in] :
         {std::array<int64_t, 3>{416, 1536, 384}, {32, 384, 1536}, {1, 5, 7}, {17, 3, 129}}) {
      const at::Tensor weight = at::randn({out, in}), bias = at::randn({out});
      const FrozenLinear linear({{.weight = weight, .bias = bias}}, at::kCPU);
      const at::Tensor x = at::randn({rows, in}).to(dtype), y_gradient = at::randn({rows, out}).to(dtype);
      const at::Tensor w = weight.to(dtype).to(at::kFloat), b = bias.to(dtype).to(at::kFloat);
      const at::Tensor expected = at::linear(x.to(at::kFloat), w, b);
      EXPECT_FALSE(linear.IsPrepared(dtype));
      EXPECT_EQ(linear.Product(x).scalar_type(), dtype);
      EXPECT_TRUE(linear.IsPrepared(dtype));
      EXPECT_LT(Difference(linear.Product(x), expected), tolerance);
      EXPECT_GT(Difference(linear.Product(x * 1.01), expected), tolerance);
      EXPECT_LT(Difference(linear.InputGradient(y_gradient), at::mm(y_gradient.to(at::kFloat), w)), tolerance);
      EXPECT_EQ(linear.out_features(), out);
      EXPECT_EQ(linear.in_features(), in);
    }
  }
}

TEST(FrozenLinearTest, PartsStandSideBySide) {
  at::manual_seed(2);
  const at::Tensor first = at::randn({6, 8}), second = at::randn({8, 4}).t(), bias = at::randn({4});
  const FrozenLinear linear({{.module = 3, .weight = first, .bias = {}}, {.module = 5, .weight = second, .bias = bias}},
                            at::kCPU);
  ASSERT_EQ(linear.parts().size(), 2u);
  EXPECT_EQ(linear.parts()[1].begin, 6);
  EXPECT_EQ(linear.parts()[1].end(), 10);
  const at::Tensor x = at::randn({5, 8}), y = linear.Product(x);
  EXPECT_LT(Difference(y.slice(1, 0, 6), at::linear(x, first)), kTolerance);
  EXPECT_LT(Difference(y.slice(1, 6, 10), at::linear(x, second, bias)), kTolerance);
}

}  // namespace
}  // namespace weft
