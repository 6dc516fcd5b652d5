#include "training/ops/attention.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

namespace weft {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kFill = 3;  // tokens and queries after the last row

// Measured for values of order one, outputs and gradients: fp32 3e-6; bf16 0.016, half a unit of gradients from 4 to 8,
// as results are rounded.
double Tolerance(at::ScalarType type) { return type == at::kFloat ? 1e-5 : 0.02; }
// A change of one value of a key that must show.
double Nudge(at::ScalarType type) { return type == at::kFloat ? 1e-3 : 1.0; }

struct Case {
  std::string name;
  AttentionShape shape;
  std::vector<int64_t> lengths;
  int64_t rotated = 0;
  int64_t every = 1;  // only each so many-th token of a row asks
  at::ScalarType type = at::kFloat;
};

struct Inputs {
  at::Tensor packed, query, out_gradient;
  AttentionRows rows;
  RotaryTables rotary;
};

Inputs Draw(const Case& c) {
  std::vector<int64_t> key_offsets = {0}, query_offsets = {0}, positions;
  for (const int64_t length : c.lengths) {
    for (int64_t i = 0; i < length; i += c.every) positions.push_back(i);
    key_offsets.push_back(key_offsets.back() + length);
    query_offsets.push_back(static_cast<int64_t>(positions.size()));
  }
  const int64_t tokens = key_offsets.back() + kFill, queries = query_offsets.back() + kFill;
  const int64_t width = c.shape.heads * c.shape.head_dim;
  at::manual_seed(1);
  const auto draw = [&](int64_t n, int64_t columns) { return at::randn({n, columns}).to(c.type); };
  return {.packed = draw(tokens, width + 2 * c.shape.key_heads * c.shape.head_dim),
          .query = draw(queries, width),
          .out_gradient = draw(queries, width),
          .rows = {.key_offsets = at::tensor(key_offsets),
                   .query_offsets = at::tensor(query_offsets),
                   .query_positions = c.every > 1 ? at::tensor(positions) : at::Tensor()},
          .rotary = MakeRotaryTables({.theta = 100, .rotated = c.rotated}, 700, at::kCPU)};
}

struct Outcome {
  at::Tensor out, query_gradient, packed_gradient;
};

at::Tensor Columns(const at::Tensor& packed, const AttentionShape& shape, int64_t part) {
  const int64_t query = shape.heads * shape.head_dim, key = shape.key_heads * shape.head_dim;
  const std::vector<int64_t> bounds = {0, query, query + key, query + 2 * key};
  return packed.slice(1, bounds[part], bounds[part + 1]);
}

enum class Way { kSelf, kPartial, kPadded, kPaddedSelf };

Outcome Attend(const Case& c, Inputs in, Way way, at::ScalarType type) {
  const at::Tensor packed = in.packed.to(type).clone().requires_grad_(),
                   query = in.query.to(type).clone().requires_grad_();
  const at::Tensor asks = way == Way::kPaddedSelf ? Columns(packed, c.shape, 0) : query;
  at::Tensor out;
  if (way == Way::kSelf) {
    out = SelfAttention(packed, in.rows, c.shape, in.rotary);
  } else if (way == Way::kPartial) {
    out = PartialAttention(query, packed.slice(1, c.shape.heads * c.shape.head_dim), in.rows, c.shape, in.rotary);
  } else {
    out = PaddedAttention(asks, Columns(packed, c.shape, 1), Columns(packed, c.shape, 2), in.rows, c.shape, in.rotary);
  }
  (out * in.out_gradient.to(type)).sum().backward();
  return {out.detach(), query.grad(), packed.grad()};
}

double Difference(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() && !b.defined()) return 0;
  return (a.to(at::kFloat) - b.to(at::kFloat)).abs().max().item<double>();
}

double Difference(const Outcome& a, const Outcome& b) {
  return std::max({Difference(a.out, b.out), Difference(a.query_gradient, b.query_gradient),
                   Difference(a.packed_gradient, b.packed_gradient)});
}

std::vector<Case> Cases() {
  const std::vector<Case> cases = {
      {"OneTokenRows", {.heads = 2, .key_heads = 2, .head_dim = 8}, {4, 1, 1}},
      {"MiniLm", {.heads = 12, .key_heads = 12, .head_dim = 32}, {13, 7, 40, 2}},
      {"Long", {.heads = 2, .key_heads = 2, .head_dim = 64}, {33, 300}},
      {"Causal", {.heads = 3, .key_heads = 3, .head_dim = 24, .causal = true}, {5, 1, 70}},
      {"Window", {.heads = 2, .key_heads = 1, .head_dim = 32, .causal = true, .sliding_window = 9}, {50, 8}, 32},
      {"Llama", {.heads = 8, .key_heads = 2, .head_dim = 64, .causal = true}, {21, 34}, 64},
      {"PartlyRotated", {.heads = 2, .key_heads = 2, .head_dim = 128}, {12, 30}, 32},
      {"FewQueries", {.heads = 4, .key_heads = 2, .head_dim = 32}, {13, 7, 40, 2}, 0, 50},
      {"FewQueriesCausal", {.heads = 4, .key_heads = 1, .head_dim = 32, .causal = true}, {13, 7, 40, 2}, 16, 3},
  };
  std::vector<Case> all;
  for (Case c : cases) {
    all.push_back(c);
    c.name += "Bf16";
    c.type = at::kBFloat16;
    all.push_back(c);
  }
  return all;
}

class AttentionTest : public ::testing::TestWithParam<Case> {};

// The oracle is fp32 on the same values, so that the rounding seen is the kernel's alone.
TEST_P(AttentionTest, Partial_EqualsPadded) {
  const Case& c = GetParam();
  Inputs in = Draw(c);
  const Outcome padded = Attend(c, in, Way::kPadded, at::kFloat);
  EXPECT_LT(Difference(Attend(c, in, Way::kPartial, c.type), padded), Tolerance(c.type));
  in.packed[0][c.shape.heads * c.shape.head_dim] += Nudge(c.type);
  EXPECT_GT(Difference(Attend(c, in, Way::kPartial, c.type), padded), Tolerance(c.type));
}

TEST_P(AttentionTest, Self_EqualsPadded) {
  Case c = GetParam();
  c.every = 1;
  Inputs in = Draw(c);
  const Outcome padded = Attend(c, in, Way::kPaddedSelf, at::kFloat);
  EXPECT_LT(Difference(Attend(c, in, Way::kSelf, c.type), padded), Tolerance(c.type));
  in.packed[1][0] += Nudge(c.type);
  EXPECT_GT(Difference(Attend(c, in, Way::kSelf, c.type), padded), Tolerance(c.type));
}

TEST_P(AttentionTest, PlacesBeyondTheLastRowAreZero) {
  const Case& c = GetParam();
  const Inputs in = Draw(c);
  for (const Way way : {Way::kPartial, Way::kPadded}) {
    const Outcome outcome = Attend(c, in, way, c.type);
    for (const at::Tensor& x : {outcome.out, outcome.query_gradient, outcome.packed_gradient}) {
      EXPECT_EQ(x.slice(0, x.size(0) - kFill).count_nonzero().item<int64_t>(), 0);
      EXPECT_GT(x.count_nonzero().item<int64_t>(), 0);
    }
  }
}

TEST_P(AttentionTest, AnyNumberOfThreads_GivesTheSameBits) {
  const Case& c = GetParam();
  const Inputs in = Draw(c);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Outcome one = Attend(c, in, Way::kPartial, c.type);
  at::set_num_threads(3);
  const Outcome three = Attend(c, in, Way::kPartial, c.type);
  at::set_num_threads(threads);
  EXPECT_TRUE(one.out.equal(three.out));
  EXPECT_TRUE(one.query_gradient.equal(three.query_gradient));
  EXPECT_TRUE(one.packed_gradient.equal(three.packed_gradient));
}

INSTANTIATE_TEST_SUITE_P(Cases, AttentionTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

// What runs off the CPU in bf16 rounds weights too.
TEST(PaddedAttentionTest, Bf16_IsCloseToFp32) {
  const Case c = {"", {.heads = 4, .key_heads = 2, .head_dim = 32, .causal = true}, {13, 7, 40}, 32, 1, at::kBFloat16};
  Inputs in = Draw(c);
  const Outcome exact = Attend(c, in, Way::kPadded, at::kFloat);
  EXPECT_LT(Difference(Attend(c, in, Way::kPadded, at::kBFloat16), exact), 0.06);  // measured 0.033
  in.packed[0][c.shape.heads * c.shape.head_dim] += 2;
  EXPECT_GT(Difference(Attend(c, in, Way::kPadded, at::kBFloat16), exact), 0.06);
}

TEST(PaddedAttentionTest, NoQueries_NothingComes) {
  const Case c = {"", {.heads = 1, .key_heads = 1, .head_dim = 4}, {3, 2}};
  Inputs in = Draw(c);
  in.rows.query_offsets = at::tensor(std::vector<int64_t>{0, 0, 0});
  for (const Way way : {Way::kPartial, Way::kPadded}) {
    EXPECT_EQ(Attend(c, in, way, at::kFloat).out.count_nonzero().item<int64_t>(), 0);
  }
}

void ExpectRefused(const Inputs& in, const AttentionShape& shape, const std::string& what) {
  try {
    SelfAttention(in.packed, in.rows, shape, in.rotary);
    ADD_FAILURE() << "not refused: " << what;
  } catch (const c10::Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(what));
  }
}

TEST(SelfAttentionTest, WhatDoesNotFitIsRefused) {
  const Case c = {"", {.heads = 2, .key_heads = 2, .head_dim = 8}, {13, 7}, 8};
  const Inputs in = Draw(c);
  ExpectRefused(in, {.heads = 4, .key_heads = 2, .head_dim = 8}, "found a tensor of shape [23, 48], expected");
  Inputs doubles = in;
  doubles.packed = in.packed.to(at::kDouble);
  ExpectRefused(doubles, c.shape, "found Double, expected fp32 or bf16");
  Inputs short_tables = in;
  short_tables.rotary = MakeRotaryTables({.rotated = 8}, 12, at::kCPU);
  ExpectRefused(short_tables, c.shape, "found a row of 13 tokens, expected at most 12");
}

// cos and sin of dimension i at a position, against those of an angle; angles are rounded to fp32.
void ExpectAngle(const RotaryTables& tables, int64_t position, int64_t i, double frequency, double factor = 1) {
  const double angle = static_cast<double>(position) * frequency, tolerance = factor * (1e-6 + angle * 1.2e-7);
  EXPECT_NEAR(tables.cos[position][i].item<double>(), factor * std::cos(angle), tolerance);
  EXPECT_NEAR(tables.sin[position][i].item<double>(), factor * std::sin(angle), tolerance);
  const double other = angle + 1e-3;  // a thousandth of a turn shows
  EXPECT_GT(std::abs(tables.cos[position][i].item<double>() - factor * std::cos(other)) +
                std::abs(tables.sin[position][i].item<double>() - factor * std::sin(other)),
            2 * tolerance);
}

using Scaling = RotaryPositions::Scaling;

TEST(RotaryTablesTest, Unscaled_FrequenciesArePowersOfTheta) {
  const RotaryTables tables = MakeRotaryTables({.theta = 10000, .rotated = 8}, 600, at::kCPU);
  EXPECT_EQ(tables.cos.sizes(), (std::vector<int64_t>{600, 4}));
  for (const int64_t position : {0, 1, 599}) {
    ExpectAngle(tables, position, 0, 1);
    ExpectAngle(tables, position, 1, 0.1);
    ExpectAngle(tables, position, 3, 0.001);
  }
  EXPECT_TRUE(tables.device_cos.is_same(tables.cos));
  EXPECT_TRUE(tables.device_sin.is_same(tables.sin));
}

TEST(RotaryTablesTest, Linear_DividesEveryFrequency) {
  const RotaryTables tables = MakeRotaryTables({.rotated = 8, .scaling = Scaling::kLinear, .factor = 4}, 600, at::kCPU);
  ExpectAngle(tables, 599, 0, 0.25);
  ExpectAngle(tables, 599, 2, 0.0025);
}

// Waves within 64 positions at frequencies 1, 0.1, 0.01, 0.001: 10.2, 1.02, 0.1, 0.01; those from 0.5 to 2 are blended.
TEST(RotaryTablesTest, Llama3_StretchesLongWavesOnly) {
  const RotaryTables tables = MakeRotaryTables({.rotated = 8,
                                                .scaling = Scaling::kLlama3,
                                                .factor = 8,
                                                .low_frequency_factor = 0.5,
                                                .high_frequency_factor = 2,
                                                .original_max_positions = 64},
                                               600, at::kCPU);
  ExpectAngle(tables, 599, 0, 1);
  const double kept = (6.4 / (2 * std::numbers::pi) - 0.5) / (2 - 0.5);
  ExpectAngle(tables, 599, 1, (1 - kept) * 0.1 / 8 + kept * 0.1);
  ExpectAngle(tables, 599, 2, 0.01 / 8);
  ExpectAngle(tables, 599, 3, 0.001 / 8);
}

// With theta 10000 and 16 dimensions frequency i is 10^(-i/2). 1000 positions turn dimension 16 log(1000 / (32 * 2 pi))
// / (2 log 10000) = 1.39 32 times and dimension 4.40 once: from 1 on they are stretched more and more, from 5 on
// wholly.
TEST(RotaryTablesTest, Yarn_StretchesByARamp) {
  const RotaryTables tables = MakeRotaryTables({.theta = 10000,
                                                .rotated = 16,
                                                .scaling = Scaling::kYarn,
                                                .factor = 4,
                                                .attention_factor = 1.5,
                                                .original_max_positions = 1000},
                                               600, at::kCPU);
  ExpectAngle(tables, 599, 0, 1, 1.5);
  ExpectAngle(tables, 599, 1, std::sqrt(0.1), 1.5);
  ExpectAngle(tables, 599, 2, 0.1 * (0.75 + 0.25 / 4), 1.5);
  ExpectAngle(tables, 599, 4, 0.01 * (0.25 + 0.75 / 4), 1.5);
  ExpectAngle(tables, 599, 5, std::sqrt(1e-5) / 4, 1.5);
  ExpectAngle(tables, 599, 7, std::sqrt(1e-7) / 4, 1.5);
}

}  // namespace
}  // namespace weft
