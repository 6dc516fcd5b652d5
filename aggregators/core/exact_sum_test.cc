#include "aggregators/core/exact_sum.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "common/random.h"

namespace weft::aggregators {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Limits = std::numeric_limits<float>;

struct Term {
  float value;
  uint64_t weight;
};

std::shared_ptr<const Layout> LayoutOf(int64_t size, const std::string& name = "t") {
  return *Layout::Create({{.name = name, .role = "head", .shape = {size}}});
}

Adapter Filled(const std::shared_ptr<const Layout>& layout, float value) {
  Adapter adapter(layout);
  for (float& x : adapter.values()) x = value;
  return adapter;
}

// Exact means by Python's fractions: each term rounded half-even to units of 2^-64, the quotient half-even to fp32.
struct Golden {
  std::vector<Term> terms;
  float mean;
};

std::vector<Golden> GoldenMeans() {
  return {
      {{{0x1p+0f, 1}, {0x1p+1f, 2}, {-0x1.8p+1f, 3}}, -0x1.555556p-1f},
      {{{0x1.fffffep+23f, 137438953472}, {0x1.fffffep+23f, 137438953471}}, 0x1.fffffep+23f},
      {{{0x1.fffffep+23f, 5}, {0x1p-149f, 1}, {-0x1.fffffep+23f, 5}}, 0x0p+0f},
      {{{0x1p-64f, 3}, {0x1p-65f, 1}}, 0x1.8p-65f},
      {{{0x1p-65f, 1}, {0x1p-64f, 2}}, 0x1.555556p-65f},
      {{{0x1p-65f, 3}, {-0x1p-63f, 1}}, 0x0p+0f},
      {{{0x1p+0f, 1}, {0x1.000002p+0f, 1}}, 0x1p+0f},
      {{{0x1.000002p+0f, 1}, {0x1.000004p+0f, 1}}, 0x1.000004p+0f},
      {{{0x1p-30f, 1}, {0x1p+0f, 1}, {0x1p+0f, 1}, {0x1.000002p+1f, 1}}, 0x1.000002p+0f},
      {{{-0x1p-30f, 1}, {0x1p+0f, 1}, {0x1p+0f, 1}, {0x1.000002p+1f, 1}}, 0x1p+0f},
      {{{0x1p-64f, 1}, {0x1p+0f, 1}, {0x1p+0f, 1}, {0x1.000002p+1f, 1}}, 0x1.000002p+0f},
      {{{-0x1p-64f, 1}, {0x1p+0f, 1}, {0x1p+0f, 1}, {0x1.000002p+1f, 1}}, 0x1p+0f},
      {{{0x1p+0f, 1}, {0x1.000002p+0f, 1}, {0x1p-40f, 1}, {-0x1p-40f, 1}}, 0x1p-1f},
      {{{0x1p-64f, 1}, {0x0p+0f, 274877906942}}, 0x1p-102f},
      {{{0x1.fffffep+23f, 1}, {0x1.fffffcp+23f, 1}}, 0x1.fffffcp+23f},
      {{{0x1.fffffcp-127f, 137438953472}, {0x1p-64f, 1}}, 0x1p-101f},
      {{{-0x1.b0c11ep-5f, 4051686261}, {0x1.5f2dd8p-30f, 10000000}, {0x1.bb2edap-19f, 7}, {0x1.c30d8ap-1f, 3}},
       -0x1.afb05cp-5f},
      {{{0x1.00745p-5f, 3}, {-0x1.2a9ebap-5f, 3}, {0x1.f0e3ccp-24f, 1}, {-0x1.254cb8p-29f, 7}}, -0x1.21225cp-10f},
      {{{0x1.989212p+2f, 7}, {0x1.b2489p-11f, 1000}, {0x1.41952p-28f, 1000}}, 0x1.739082p-6f},
      {{{0x1.60597ap+3f, 1}, {-0x1.f45332p+2f, 3}}, -0x1.8e235p+1f},
      {{{-0x1.8652dap-5f, 10000000}, {-0x1.4bbdbap-2f, 1}, {-0x1.5cd506p+15f, 7}}, -0x1.432f04p-4f},
      {{{0x1.4ffcbep+1f, 7}, {-0x1.261c36p-40f, 2077878434}, {-0x1.67e846p+18f, 136693709}}, -0x1.637148p+14f},
      {{{0x1.a6a5bcp-18f, 1}, {0x1.cd39ep+3f, 3}, {-0x1.21fdacp+22f, 1}, {0x1.0f0b96p-3f, 7}}, -0x1.82a6a4p+18f},
      {{{-0x1.85ae86p-29f, 1000}, {0x1.e6e052p+10f, 1000}}, 0x1.e6e052p+9f},
      {{{-0x1.7fd398p+3f, 3}, {-0x1.c83264p-16f, 1}, {-0x1.96655ep-2f, 7}, {-0x1.7c55dcp-15f, 7}}, -0x1.13a466p+1f},
      {{{0x1.8c0798p-49f, 7}, {0x1.d111eap+0f, 7}, {0x1.ec1e06p-1f, 3620140259}, {-0x1.55974p-4f, 10000000}},
       0x1.eaa4dep-1f},
      {{{-0x1.da963ap-4f, 6344692897}, {0x1.9de552p+3f, 10000000}}, -0x1.86787cp-4f},
      {{{0x1.b86d14p+3f, 3}, {-0x1.a66e12p+6f, 776284203}, {-0x1.78b9d2p-45f, 3}, {0x1.513de6p-33f, 1000}},
       -0x1.a66deep+6f},
  };
}

TEST(ExactSumTest, Mean_IsTheCorrectlyRoundedQuotient) {
  const auto layout = LayoutOf(2);
  for (const Golden& golden : GoldenMeans()) {
    ExactSum sum(layout);
    ExactSum mirrored(layout);
    for (const Term& term : golden.terms) {
      ASSERT_EQ(sum.Add(Filled(layout, term.value), term.weight), absl::OkStatus());
      ASSERT_EQ(mirrored.Add(Filled(layout, -term.value), term.weight), absl::OkStatus());
    }
    EXPECT_EQ(std::bit_cast<uint32_t>(sum.Mean()->values()[1]), std::bit_cast<uint32_t>(golden.mean)) << golden.mean;
    EXPECT_EQ(mirrored.Mean()->values()[0], -golden.mean);
  }
}

TEST(ExactSumTest, Mean_OfOneIsItself) {
  const auto layout = LayoutOf(4096);
  Adapter adapter(layout);
  Philox random(1, 2);
  for (float& x : adapter.values()) {
    // Any sign and mantissa, exponents from 2^-41 to 2^23.
    const uint32_t exponent = 127 - 41 + static_cast<uint32_t>(random.NextBelow(65));
    x = std::bit_cast<float>((random.Next() & 0x807fffff) | exponent << 23);
  }
  for (const uint64_t weight : {uint64_t{1}, uint64_t{3}, uint64_t{12'345'677}, ExactSum::kMaxTotalWeight}) {
    ExactSum sum(layout);
    ASSERT_EQ(sum.Add(adapter, weight), absl::OkStatus());
    EXPECT_EQ(sum.Mean()->ContentHash(), adapter.ContentHash()) << weight;
  }
}

TEST(ExactSumTest, Mean_OfRandomTermsIsNearTheLongDoubleMean) {
  const auto layout = LayoutOf(512);
  ExactSum sum(layout);
  std::vector<long double> reference(512);
  Philox random(8, 9);
  for (int k = 0; k < 50; ++k) {
    Adapter adapter(layout);
    const uint64_t weight = 1 + random.NextBelow(1'000'000);
    for (size_t i = 0; i < reference.size(); ++i) {
      adapter.values()[i] = random.NextFloat() - 0.25f;
      reference[i] += static_cast<long double>(adapter.values()[i]) * static_cast<long double>(weight);
    }
    ASSERT_EQ(sum.Add(adapter, weight), absl::OkStatus());
  }
  const Adapter mean = *sum.Mean();
  for (size_t i = 0; i < reference.size(); ++i) {
    // 64-bit mantissas: the reference itself is far closer to the exact mean than to a neighbouring float.
    EXPECT_EQ(mean.values()[i], static_cast<float>(reference[i] / static_cast<long double>(sum.total_weight()))) << i;
  }
}

TEST(ExactSumTest, Mean_ZeroHasNoSign) {
  const auto layout = LayoutOf(1);
  ExactSum sum(layout);
  ASSERT_EQ(sum.Add(Filled(layout, -0.0f), 1), absl::OkStatus());
  EXPECT_FALSE(std::signbit(sum.Mean()->values()[0]));
}

TEST(ExactSumTest, Mean_OfNothingFailsPrecondition) {
  EXPECT_EQ(ExactSum(LayoutOf(1)).Mean().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(ExactSumTest, Add_ReachesTheStatedRange) {
  const auto layout = LayoutOf(1);
  for (const float sign : {1.0f, -1.0f}) {
    const float largest = sign * std::nextafter(ExactSum::kValueLimit, 0.0f);
    ExactSum sum(layout);
    ASSERT_EQ(sum.Add(Filled(layout, largest), ExactSum::kMaxTotalWeight - 1), absl::OkStatus());
    ASSERT_EQ(sum.Add(Filled(layout, largest), 1), absl::OkStatus());
    EXPECT_EQ(sum.Mean()->values()[0], largest);
  }
}

TEST(ExactSumTest, Add_WhatDoesNotFitIsRefusedByName) {
  const auto layout = *Layout::Create(
      {{.name = "first", .role = "head", .shape = {3}}, {.name = "second", .role = "head", .shape = {2, 2}}});
  ExactSum sum(layout);
  ASSERT_EQ(sum.Add(Filled(layout, 1), 5), absl::OkStatus());
  const std::string before = sum.Save("b");
  for (const float bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(), ExactSum::kValueLimit,
                          -ExactSum::kValueLimit, Limits::max()}) {
    Adapter adapter = Filled(layout, 1);
    adapter.values()[5] = bad;
    const absl::Status status = sum.Add(adapter, 1);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(status.message(), HasSubstr("second")) << bad;
    EXPECT_EQ(sum.Check(adapter, 1), status);
  }
  Adapter large = Filled(layout, 1);
  large.values()[5] = 2e7f;
  EXPECT_THAT(sum.Add(large, 1).message(), AllOf(HasSubstr("second holds 2e+07 at element 2"), HasSubstr("2^24")));
  EXPECT_THAT(sum.Add(Filled(LayoutOf(7), 1), 1).message(), HasSubstr("layout: found hash"));
  EXPECT_THAT(sum.Add(Filled(layout, 1), 0).message(), HasSubstr("weight: found 0"));
  EXPECT_THAT(sum.Add(Filled(layout, 1), ExactSum::kMaxTotalWeight - 4).message(), HasSubstr("on top of 5"));
  EXPECT_THAT(sum.Add(Filled(layout, 1), std::numeric_limits<uint64_t>::max()).message(), HasSubstr("weight: found"));
  EXPECT_EQ(sum.Save("b"), before);
  EXPECT_EQ(sum.updates(), 1);
}

TEST(ExactSumTest, Merge_AddsSumsWeightsAndCounts) {
  const auto layout = LayoutOf(3);
  ExactSum all(layout);
  ExactSum left(layout);
  ExactSum right(layout);
  const Term terms[] = {{0.1f, 3}, {-7e6f, 1000}, {0x1p-40f, 7}, {7e6f, 1000}, {1e-30f, 1}};
  for (size_t i = 0; i < std::size(terms); ++i) {
    const Adapter adapter = Filled(layout, terms[i].value);
    ASSERT_EQ(all.Add(adapter, terms[i].weight), absl::OkStatus());
    ASSERT_EQ((i % 2 == 0 ? left : right).Add(adapter, terms[i].weight), absl::OkStatus());
  }
  ASSERT_EQ(right.Merge(left), absl::OkStatus());
  EXPECT_EQ(right.Save(""), all.Save(""));
  EXPECT_EQ(right.updates(), 5);
  EXPECT_EQ(right.total_weight(), 2011u);
}

TEST(ExactSumTest, Merge_OtherLayoutOrTooMuchWeightIsRefused) {
  const auto layout = LayoutOf(1);
  ExactSum sum(layout);
  ASSERT_EQ(sum.Add(Filled(layout, 1), 2), absl::OkStatus());
  const std::string before = sum.Save("");
  EXPECT_THAT(sum.Merge(ExactSum(LayoutOf(1, "u"))).message(), HasSubstr("merge: found a sum of layout"));
  ExactSum heavy(layout);
  ASSERT_EQ(heavy.Add(Filled(layout, 1), ExactSum::kMaxTotalWeight - 1), absl::OkStatus());
  EXPECT_THAT(sum.Merge(heavy).message(), HasSubstr("merge: found weight"));
  EXPECT_EQ(sum.Save(""), before);
}

TEST(ExactSumTest, Restore_GoesOnWithTheSameBits) {
  const auto layout = LayoutOf(5);
  ExactSum sum(layout);
  ASSERT_EQ(sum.Add(Filled(layout, -0.3f), 7), absl::OkStatus());
  ExactSum restored(layout);
  ASSERT_EQ(restored.Restore("b", sum.Save("b")), absl::OkStatus());
  ASSERT_EQ(sum.Add(Filled(layout, 0.7f), 2), absl::OkStatus());
  ASSERT_EQ(restored.Add(Filled(layout, 0.7f), 2), absl::OkStatus());
  EXPECT_EQ(restored.Save("b"), sum.Save("b"));
  EXPECT_EQ(restored.Mean()->ContentHash(), sum.Mean()->ContentHash());
}

TEST(ExactSumTest, Restore_DamagedOrForeignIsDataLossAndChangesNothing) {
  const auto layout = LayoutOf(2);
  ExactSum sum(layout);
  ASSERT_EQ(sum.Add(Filled(layout, 1), 1), absl::OkStatus());
  const std::string state = sum.Save("b");
  ExactSum other(layout);
  const auto refused = [&](std::string_view binding, const std::string& bytes, const char* why) {
    const absl::Status status = other.Restore(binding, bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << why;
    EXPECT_THAT(status.message(), HasSubstr(why));
    EXPECT_EQ(other.updates(), 0);
  };
  refused("b", state.substr(1), "bytes, expected");
  refused("b", "", "found 0 bytes");
  refused("c", state, "another rule, config or round");
  refused("b", ExactSum(LayoutOf(2, "u")).Save("b"), "another layout");
  std::string spoiled = state;
  spoiled[0] = 'x';
  refused("b", spoiled, "not the state of a sum");
  spoiled = state;
  spoiled[state.size() - 40] = static_cast<char>(spoiled[state.size() - 40] ^ 1);
  refused("b", spoiled, "checksum");
}

}  // namespace
}  // namespace weft::aggregators
