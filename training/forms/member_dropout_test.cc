#include "training/forms/member_dropout.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "training/forms/test_members.h"

namespace weft {
namespace {

const Segments kSegments = SegmentsOf({300, 0, 200});
constexpr int64_t kRows = 503, kWidth = 130;

PassRandom Random(int64_t step = 4) { return {.seeds = {10, 11, 12}, .step = step}; }

TEST(MemberDropoutTest, Dropped_IsByFactorsOfEachMember) {
  const MemberDropout dropout("layer.query", 0.25);
  at::manual_seed(1);
  const at::Tensor x = at::randn({kRows, kWidth});
  const at::Tensor out = dropout.Dropped(x, kSegments, Random());
  for (const int64_t k : {0, 2}) {
    const int64_t rows = kSegments.end(k) - kSegments.begin(k);
    const at::Tensor factors = dropout.Factors(k, Random(), 0, rows, kWidth);
    EXPECT_TRUE(RowsOf(out, kSegments, k).equal(RowsOf(x, kSegments, k) * factors));
    EXPECT_NEAR(factors.mean().item<double>(), 1, 0.02);                             // 26000 draws: 5 errors of 0.0036
    EXPECT_NEAR((factors == 0).to(at::kFloat).mean().item<double>(), 0.25, 0.0135);  // likewise
    EXPECT_TRUE(factors.slice(0, 50, 60).equal(dropout.Factors(k, Random(), 50, 10, kWidth)));
  }
  EXPECT_EQ(out.slice(0, 500).count_nonzero().item<int64_t>(), 0);
}

TEST(MemberDropoutTest, AddDropped_AddsTheSame) {
  const MemberDropout dropout("layer.query", 0.25);
  const at::Tensor x = at::randn({kRows, kWidth});
  at::Tensor sum = at::ones({kRows, kWidth}), half = at::ones({kRows, kWidth}, at::kBFloat16);
  const at::Tensor expected = dropout.Dropped(x, kSegments, Random()) + 1;
  dropout.AddDropped(x, kSegments, Random(), sum);
  EXPECT_LT(Difference(sum, expected), 1e-6);
  dropout.AddDropped(x, kSegments, Random(), half);
  EXPECT_LT(Difference(half, expected.to(at::kBFloat16)), 2e-3);  // some round the other way; measured 1.6e-4
}

TEST(MemberDropoutTest, Dropped_DependsOnSeedStepAndPlaceButNotOnCompanyOrThreads) {
  const MemberDropout dropout("layer.query", 0.5);
  const at::Tensor x = at::ones({kRows, kWidth}, at::kBFloat16);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor out = dropout.Dropped(x, kSegments, Random());
  at::set_num_threads(3);
  EXPECT_TRUE(out.equal(dropout.Dropped(x, kSegments, Random())));
  at::set_num_threads(threads);
  EXPECT_FALSE(out.equal(dropout.Dropped(x, kSegments, Random(5))));
  EXPECT_FALSE(out.equal(MemberDropout("layer.key", 0.5).Dropped(x, kSegments, Random())));
  const at::Tensor alone = dropout.Dropped(x, SegmentsOf({200}), {.seeds = {12}, .step = 4});
  EXPECT_TRUE(alone.slice(0, 0, 200).equal(RowsOf(out, kSegments, 2)));
  EXPECT_FALSE(alone.slice(0, 0, 200).equal(out.slice(0, 0, 200)));
}

}  // namespace
}  // namespace weft
