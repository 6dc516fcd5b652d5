#include "training/forms/grouped_factors.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "training/forms/test_members.h"

namespace weft {
namespace {

// The kernel against ATen's operators, relative to the largest value. fp32: measured 2.4e-7. In bf16 ATen's way rounds
// factors and sums: measured 5.4e-3.
constexpr double kTolerance = 2e-6;
constexpr double kBf16Tolerance = 2e-2;

const Segments kSegments = SegmentsOf({70, 0, 1, 130});
constexpr int64_t kRows = 205;  // four are nobody's

struct Sides {
  GroupedFactor down, up;
};

Sides MakeSides(int64_t in, int64_t out) {
  at::manual_seed(5);
  Sides sides = {.down = {.members = {}, .transposed = false}, .up = {.members = {}, .transposed = true}};
  for (const int64_t rank : {8, 3, 16, 5}) {
    sides.down.members.push_back(Trained(at::randn({rank, in})));
    sides.up.members.push_back(Trained(at::randn({out, rank})));
  }
  return sides;
}

// low, y, and the gradients of both factors of all members.
std::vector<at::Tensor> Outcome(at::ScalarType dtype, ProductPath path, double scale = 0.5) {
  Sides sides = MakeSides(40, 24);
  at::manual_seed(6);
  const at::Tensor x = at::randn({kRows, 40}).to(dtype), wide = at::randn({kRows, 64}).to(dtype);
  const at::Tensor y = wide.slice(1, 8, 32), low = NewLow(sides.down, kSegments, at::kCPU);
  const FactorRows down = {&sides.down, x, 2}, up = {&sides.up, y, scale};
  ProjectAndExpand(kSegments, down, low, up, path);
  const FactorGradient gradients[] = {{down, low}, {up, low}};
  AddGradients(kSegments, gradients, path);
  std::vector<at::Tensor> outcome = {low, wide};
  for (const Sides* each = &sides; const GroupedFactor* factor : {&each->down, &each->up}) {
    for (const MemberTensor& member : factor->members) {
      if (member.gradient.count_nonzero().item<int64_t>() > 0) outcome.push_back(member.gradient);
    }
  }
  return outcome;
}

double Largest(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, Difference(a[i], b[i]));
  return largest;
}

TEST(GroupedFactorsTest, AllProducts_KernelEqualsAten) {
  const std::vector<at::Tensor> kernel = Outcome(at::kFloat, ProductPath::kBest);
  EXPECT_EQ(kernel.size(), 2 + 2 * 3);  // the member without rows has no gradients
  EXPECT_LT(Largest(kernel, Outcome(at::kFloat, ProductPath::kAten)), kTolerance);
  EXPECT_GT(Largest(kernel, Outcome(at::kFloat, ProductPath::kAten, 0.5001)), kTolerance);
}

TEST(GroupedFactorsTest, AllProducts_KernelEqualsAtenInBf16) {
  const std::vector<at::Tensor> kernel = Outcome(at::kBFloat16, ProductPath::kBest);
  EXPECT_LT(Largest(kernel, Outcome(at::kBFloat16, ProductPath::kAten)), kBf16Tolerance);
  EXPECT_GT(Largest(kernel, Outcome(at::kBFloat16, ProductPath::kAten, 0.53)), kBf16Tolerance);
}

TEST(GroupedFactorsTest, AllProducts_AnyNumberOfThreadsSameBits) {
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const std::vector<at::Tensor> one = Outcome(at::kBFloat16, ProductPath::kBest);
  at::set_num_threads(3);
  const std::vector<at::Tensor> three = Outcome(at::kBFloat16, ProductPath::kBest);
  at::set_num_threads(threads);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(one[i].equal(three[i])) << i;
}

TEST(GroupedFactorsTest, AddGradients_PassesOverConstants) {
  for (const ProductPath path : {ProductPath::kBest, ProductPath::kAten}) {
    Sides sides = MakeSides(40, 24);
    EXPECT_TRUE(sides.down.IsTrained());
    sides.down.members[0] = Constant(sides.down.members[0].value);
    const at::Tensor x = at::randn({kRows, 40}), low = NewLow(sides.down, kSegments, at::kCPU, /*zeros=*/true);
    const FactorGradient gradient = {{&sides.down, x}, low};
    AddGradients(kSegments, {&gradient, 1}, path);
    EXPECT_TRUE(sides.down.IsTrained());
    for (MemberTensor& member : sides.down.members) member = Constant(member.value);
    AddGradients(kSegments, {&gradient, 1}, path);
    EXPECT_FALSE(sides.down.IsTrained());
  }
}

TEST(GroupedFactorsTest, ProjectAndExpand_RefusesOtherDtypes) {
  const Sides sides = MakeSides(40, 24);
  const at::Tensor low = NewLow(sides.down, kSegments, at::kCPU);
  EXPECT_THROW(ProjectAndExpand(kSegments, FactorRows{&sides.down, at::zeros({kRows, 40}, at::kDouble)}, low, {}),
               c10::Error);
}

}  // namespace
}  // namespace weft
