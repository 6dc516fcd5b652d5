#include "training/models/attention.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>

#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "training/models/cpu_attention.h"

namespace weft {
namespace {

// Measured for values of order one: outputs 4e-7, gradients 2e-6.
constexpr double kTolerance = 1e-5;

at::Tensor Offsets(std::vector<int64_t> lengths) {
  at::Tensor offsets = at::arange(static_cast<int64_t>(lengths.size()) + 1);
  for (size_t i = 0; i < lengths.size(); ++i) offsets[i + 1].copy_(offsets[i] + lengths[i]);
  return offsets;
}

struct Case {
  int64_t heads, head_dim;
  std::vector<int64_t> lengths;
  bool first_only;
};

struct Outcome {
  at::Tensor out, query_gradient, key_gradient, value_gradient;
};

Outcome Attend(decltype(PackedAttention) attention, const Case& c, double key_nudge = 0) {
  constexpr int64_t kFill = 3;  // places after the last row
  const at::Tensor key_offsets = Offsets(c.lengths);
  const at::Tensor query_offsets = c.first_only ? at::arange(key_offsets.size(0)) : key_offsets;
  const int64_t keys = key_offsets[-1].item<int64_t>() + kFill, queries = query_offsets[-1].item<int64_t>() + kFill;
  const int64_t hidden = c.heads * c.head_dim;
  at::manual_seed(1);
  at::Tensor query = at::randn({queries, hidden}), key = at::randn({keys, hidden}), value = at::randn({keys, hidden});
  key[1][0] += key_nudge;
  for (at::Tensor* tensor : {&query, &key, &value}) tensor->requires_grad_();
  const at::Tensor out = attention(query, key, value, query_offsets, key_offsets, c.heads);
  (out * at::randn({queries, hidden})).sum().backward();
  return {out.detach(), query.grad(), key.grad(), value.grad()};
}

double Difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

double Difference(const Outcome& a, const Outcome& b) {
  return std::max({Difference(a.out, b.out), Difference(a.query_gradient, b.query_gradient),
                   Difference(a.key_gradient, b.key_gradient), Difference(a.value_gradient, b.value_gradient)});
}

class PackedAttentionTest : public ::testing::TestWithParam<Case> {};

TEST_P(PackedAttentionTest, EqualsPaddedAttention) {
  const Outcome packed = Attend(PackedAttention, GetParam()), padded = Attend(PaddedAttention, GetParam());
  EXPECT_LT(Difference(packed, padded), kTolerance);
}

// One key component off by a thousandth must show.
TEST_P(PackedAttentionTest, PerturbedKeyIsOverTheTolerance) {
  const Outcome nudged = Attend(PackedAttention, GetParam(), 1e-3);
  EXPECT_GT(Difference(nudged, Attend(PaddedAttention, GetParam())), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Shapes, PackedAttentionTest,
                         ::testing::Values(Case{3, 8, {5, 1, 16, 17}, false}, Case{12, 32, {13, 7, 40, 2}, false},
                                           Case{2, 64, {33, 300}, false}, Case{12, 32, {13, 7, 40, 2}, true}));

// Divergence must stay visible: a NaN spoils its own row's head and nothing else.
TEST(CpuAttentionTest, NanStaysInItsRowAndHead) {
  const at::Tensor offsets = Offsets({13, 20});
  const at::Tensor query = at::randn({33, 64}), key = at::randn({33, 64});
  query[14][40] = std::nanf("");
  const at::Tensor spoilt = PackedAttention(query, key, key, offsets, offsets, /*heads=*/2).isnan();
  EXPECT_TRUE(spoilt[14].slice(0, 32).all().item<bool>());
  EXPECT_EQ(spoilt.sum().item<int64_t>(), 32);
}

TEST(CpuAttentionTest, AnySplitOverThreadsGivesTheSameBits) {
  const at::Tensor offsets = Offsets({13, 7, 40, 2});
  const at::Tensor x = at::randn({62, 64});
  const PackedAttentionShape shape = {.query_offsets = offsets.const_data_ptr<int64_t>(),
                                      .key_offsets = offsets.const_data_ptr<int64_t>(),
                                      .heads = 2,
                                      .head_dim = 32,
                                      .query_stride = 64,
                                      .key_stride = 64};
  const auto run = [&](const std::vector<int64_t>& cuts) {
    const at::Tensor out = at::empty_like(x), log_sum = at::randn({62, 2}), query = at::empty_like(x),
                     key = at::empty_like(x), value = at::empty_like(x);
    const auto* in = x.const_data_ptr<float>();
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      PackedAttentionForward(shape, in, in, in, out.mutable_data_ptr<float>(), log_sum.mutable_data_ptr<float>(),
                             cuts[i], cuts[i + 1]);
      PackedAttentionBackward(
          shape, in, in, in, log_sum.const_data_ptr<float>(), in,
          {query.mutable_data_ptr<float>(), key.mutable_data_ptr<float>(), value.mutable_data_ptr<float>()}, cuts[i],
          cuts[i + 1]);
    }
    return std::vector<at::Tensor>{out, query, key, value};
  };
  const std::vector<at::Tensor> whole = run({0, 8}), parts = run({0, 1, 4, 7, 8});
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_TRUE(whole[i].equal(parts[i])) << i;
}

}  // namespace
}  // namespace weft
