#include "aggregators/core/exact_sum.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "common/hash.h"
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

absl::Status Add(ExactSum& sum, const Adapter& adapter, uint64_t weight) {
  return sum.Add(EncodedUpdate::View(adapter), weight);
}

// Exact means by Python's fractions: each term rounded half-even to units of 2^-64, the quotient half-even to fp32.
struct Golden {
  std::vector<Term> terms;
  float mean;
};

std::vector<Golden> GoldenMeans() {
  return {
      {{{0x1p+0f, 1}, {0x1p+1f, 2}, {-0x1.8p+1f, 3}}, -0x1.555556p-1f},
      {{{0x1.fffffep+15f, 536870911}, {0x1.fffffep+15f, 536870911}}, 0x1.fffffep+15f},
      {{{0x1.fffffep+15f, 5}, {0x1p-149f, 1}, {-0x1.fffffep+15f, 5}}, 0x0p+0f},
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
      {{{0x1p-64f, 1}, {0x0p+0f, 536870911}}, 0x1p-93f},
      {{{0x1.fffffep+15f, 1}, {0x1.fffffcp+15f, 1}}, 0x1.fffffcp+15f},
      {{{0x1.fffffcp-127f, 536870911}, {0x1p-64f, 1}}, 0x1p-93f},
      {{{-0x1.b0c11ep-5f, 536870911}, {0x1.5f2dd8p-30f, 10000000}, {0x1.bb2edap-19f, 7}, {0x1.c30d8ap-1f, 3}},
       -0x1.a8d74ep-5f},
      {{{0x1.00745p-5f, 3}, {-0x1.2a9ebap-5f, 3}, {0x1.f0e3ccp-24f, 1}, {-0x1.254cb8p-29f, 7}}, -0x1.21225cp-10f},
      {{{0x1.989212p+2f, 7}, {0x1.b2489p-11f, 1000}, {0x1.41952p-28f, 1000}}, 0x1.739082p-6f},
      {{{0x1.60597ap+3f, 1}, {-0x1.f45332p+2f, 3}}, -0x1.8e235p+1f},
      {{{-0x1.8652dap-5f, 10000000}, {-0x1.4bbdbap-2f, 1}, {-0x1.5cd506p+15f, 7}}, -0x1.432f04p-4f},
      {{{0x1.4ffcbep+1f, 7}, {-0x1.261c36p-40f, 536870911}, {-0x1.67e846p+10f, 136693709}}, -0x1.2428d2p+8f},
      {{{0x1.a6a5bcp-18f, 1}, {0x1.cd39ep+3f, 3}, {-0x1.21fdacp+14f, 1}, {0x1.0f0b96p-3f, 7}}, -0x1.81bc02p+10f},
      {{{-0x1.85ae86p-29f, 1000}, {0x1.e6e052p+10f, 1000}}, 0x1.e6e052p+9f},
      {{{-0x1.7fd398p+3f, 3}, {-0x1.c83264p-16f, 1}, {-0x1.96655ep-2f, 7}, {-0x1.7c55dcp-15f, 7}}, -0x1.13a466p+1f},
      {{{0x1.8c0798p-49f, 7}, {0x1.d111eap+0f, 7}, {0x1.ec1e06p-1f, 536870911}, {-0x1.55974p-4f, 10000000}},
       0x1.e25674p-1f},
      {{{-0x1.da963ap-4f, 536870911}, {0x1.9de552p+3f, 10000000}}, 0x1.f6d9eep-4f},
      {{{0x1.b86d14p+3f, 3}, {-0x1.a66e12p+6f, 536870911}, {-0x1.78b9d2p-45f, 3}, {0x1.513de6p-33f, 1000}},
       -0x1.a66ddep+6f},
  };
}

TEST(ExactSumTest, Mean_IsTheCorrectlyRoundedQuotient) {
  const auto layout = LayoutOf(40);  // in vectors, and beyond them
  for (const Golden& golden : GoldenMeans()) {
    ExactSum sum(layout);
    ExactSum mirrored(layout);
    for (const Term& term : golden.terms) {
      ASSERT_EQ(Add(sum, Filled(layout, term.value), term.weight), absl::OkStatus());
      ASSERT_EQ(Add(mirrored, Filled(layout, -term.value), term.weight), absl::OkStatus());
    }
    const Adapter mean = *sum.Mean();
    const Adapter other = *mirrored.Mean();
    for (size_t i = 0; i < 40; ++i) {
      EXPECT_EQ(std::bit_cast<uint32_t>(mean.values()[i]), std::bit_cast<uint32_t>(golden.mean)) << golden.mean;
      EXPECT_EQ(other.values()[i], -golden.mean);
    }
  }
}

TEST(ExactSumTest, Mean_OfOneIsItself) {
  const auto layout = LayoutOf(4096);
  Adapter adapter(layout);
  Philox random(1, 2);
  for (float& x : adapter.values()) {
    // Any sign and mantissa, exponents from 2^-41 to 2^15.
    const uint32_t exponent = 127 - 41 + static_cast<uint32_t>(random.NextBelow(57));
    x = std::bit_cast<float>((random.Next() & 0x807fffff) | exponent << 23);
  }
  for (const uint64_t weight : {uint64_t{1}, uint64_t{3}, uint64_t{12'345'677}, ExactSum::kMaxWeight}) {
    ExactSum sum(layout);
    ASSERT_EQ(Add(sum, adapter, weight), absl::OkStatus());
    EXPECT_EQ(sum.Mean()->ContentHash(), adapter.ContentHash()) << weight;
    EXPECT_EQ(sum.Mean(3)->ContentHash(), adapter.ContentHash()) << weight;
  }
}

TEST(ExactSumTest, Mean_OfRandomTermsIsTheLongDoubleMean) {
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
    ASSERT_EQ(Add(sum, adapter, weight), absl::OkStatus());
  }
  const Adapter mean = *sum.Mean();
  for (size_t i = 0; i < reference.size(); ++i) {
    // 64-bit mantissas: the reference itself is far closer to the exact mean than to a neighbouring float.
    const long double exact = reference[i] / static_cast<long double>(sum.total_weight());
    EXPECT_EQ(mean.values()[i], static_cast<float>(exact)) << i;
    EXPECT_EQ(sum.MeanAsDouble(static_cast<int64_t>(i)), static_cast<double>(exact)) << i;
    EXPECT_EQ(sum.SumAsDouble(static_cast<int64_t>(i)), static_cast<double>(reference[i])) << i;
    EXPECT_EQ(std::ldexp(static_cast<long double>(sum.SumUnits(static_cast<int64_t>(i))), -64), reference[i]) << i;
  }
}

TEST(ExactSumTest, Mean_ZeroHasNoSign) {
  const auto layout = LayoutOf(20);
  ExactSum sum(layout);
  ASSERT_EQ(Add(sum, Filled(layout, -0.0f), 1), absl::OkStatus());
  const Adapter mean = *sum.Mean();
  for (const float value : mean.values()) EXPECT_FALSE(std::signbit(value));
}

TEST(ExactSumTest, Mean_OfNothingFailsPrecondition) {
  EXPECT_EQ(ExactSum(LayoutOf(1)).Mean().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(ExactSumTest, Add_ReachesTheStatedRange) {
  const auto layout = LayoutOf(17);
  for (const float sign : {1.0f, -1.0f}) {
    const float largest = sign * std::nextafter(ExactSum::kValueLimit, 0.0f);
    ExactSum sum(layout);
    const Adapter adapter = Filled(layout, largest);
    const EncodedUpdate update = EncodedUpdate::View(adapter);
    const std::vector<const EncodedUpdate*> updates(512, &update);
    sum.AddChecked(updates, std::vector<uint64_t>(512, ExactSum::kMaxWeight), 1);
    ASSERT_EQ(sum.Add(update, 510), absl::OkStatus());
    ASSERT_EQ(sum.Add(update, 1), absl::OkStatus());
    EXPECT_EQ(sum.total_weight(), ExactSum::kMaxTotalWeight);
    EXPECT_EQ(sum.Mean()->ContentHash(), adapter.ContentHash());
    EXPECT_THAT(sum.Add(update, 1).message(), HasSubstr("on top of 274877906943"));
  }
}

// Updates of awkward layouts in every encoding.
struct Cohort {
  std::vector<EncodedUpdate> updates;
  std::vector<const EncodedUpdate*> pointers;
  std::vector<uint64_t> weights;
};

Cohort MakeCohort(const std::shared_ptr<const Layout>& layout) {
  Cohort cohort;
  Philox random(5, 6);
  for (const char* const values : {"f32", "bf16", "f16", "int8", "int4", "topk"}) {
    for (int k = 0; k < 3; ++k) {
      Adapter delta(layout);
      for (float& x : delta.values()) x = static_cast<float>(random.NextNormal()) * std::ldexp(1.0f, -10 * k);
      proto::EncodingConfig config;
      config.set_values(values);
      config.set_density(0.05);
      cohort.updates.push_back(*EncodedUpdate::Encode(delta, config));
      cohort.weights.push_back(1 + random.NextBelow(ExactSum::kMaxWeight));
    }
  }
  for (const EncodedUpdate& update : cohort.updates) cohort.pointers.push_back(&update);
  return cohort;
}

// More than a tile, an odd size, a single element, sizes about a block.
std::shared_ptr<const Layout> AwkwardLayout() {
  std::vector<TensorSpec> tensors;
  for (const int64_t size : {9001, 1, 127, 128, 129, 3, 4097}) {
    tensors.push_back({.name = std::to_string(size), .role = "head", .shape = {size}});
  }
  return *Layout::Create(std::move(tensors));
}

TEST(ExactSumTest, AddChecked_FoldsWhatDecodeGives) {
  const auto layout = AwkwardLayout();
  const Cohort cohort = MakeCohort(layout);
  for (size_t k = 0; k < cohort.updates.size(); ++k) {
    ExactSum encoded(layout);
    ASSERT_EQ(encoded.Add(cohort.updates[k], cohort.weights[k]), absl::OkStatus());
    ExactSum decoded(layout);
    ASSERT_EQ(Add(decoded, cohort.updates[k].Decode(), cohort.weights[k]), absl::OkStatus());
    EXPECT_EQ(encoded.Save(""), decoded.Save("")) << k;
  }
}

TEST(ExactSumTest, AddChecked_AnyGroupsOrderAndThreadsGiveTheSameBits) {
  const auto layout = AwkwardLayout();
  const Cohort cohort = MakeCohort(layout);
  ExactSum one_by_one(layout);
  for (size_t k = 0; k < cohort.updates.size(); ++k) {
    ASSERT_EQ(one_by_one.Add(cohort.updates[k], cohort.weights[k]), absl::OkStatus());
  }
  const std::string expected = one_by_one.Save("");
  Philox random(11, 12);
  for (const int threads : {1, 2, 5}) {
    std::vector<size_t> order(cohort.updates.size());
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.NextBelow(i)]);
    ExactSum sum(layout);
    for (size_t begin = 0; begin < order.size();) {
      const size_t end = std::min(order.size(), begin + 1 + random.NextBelow(9));
      std::vector<const EncodedUpdate*> updates;
      std::vector<uint64_t> weights;
      for (size_t i = begin; i < end; ++i) {
        updates.push_back(cohort.pointers[order[i]]);
        weights.push_back(cohort.weights[order[i]]);
      }
      sum.AddChecked(updates, weights, threads);
      begin = end;
    }
    EXPECT_EQ(sum.Save(""), expected) << threads;
  }
}

TEST(ExactSumTest, Add_WhatDoesNotFitIsRefusedByName) {
  const auto layout = *Layout::Create(
      {{.name = "first", .role = "head", .shape = {3}}, {.name = "second", .role = "head", .shape = {2, 2}}});
  ExactSum sum(layout);
  ASSERT_EQ(Add(sum, Filled(layout, 1), 5), absl::OkStatus());
  const std::string before = sum.Save("b");
  for (const float bad : {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(), ExactSum::kValueLimit,
                          -ExactSum::kValueLimit, Limits::max()}) {
    Adapter adapter = Filled(layout, 1);
    adapter.values()[5] = bad;
    const absl::Status status = Add(sum, adapter, 1);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(status.message(), HasSubstr("second")) << bad;
    EXPECT_EQ(sum.Check(EncodedUpdate::View(adapter), 1), status);
  }
  Adapter large = Filled(layout, 1);
  large.values()[5] = 2e7f;
  EXPECT_THAT(Add(sum, large, 1).message(), AllOf(HasSubstr("second holds 2e+07 at element 2"), HasSubstr("2^16")));
  EXPECT_THAT(Add(sum, Filled(LayoutOf(7), 1), 1).message(), HasSubstr("layout: found hash"));
  EXPECT_THAT(Add(sum, Filled(layout, 1), 0).message(), HasSubstr("weight: found 0"));
  EXPECT_THAT(Add(sum, Filled(layout, 1), ExactSum::kMaxWeight + 1).message(),
              HasSubstr("weight: found 536870912, expected 1 to 536870911"));
  EXPECT_THAT(Add(sum, Filled(layout, 1), std::numeric_limits<uint64_t>::max()).message(), HasSubstr("weight: found"));
  EXPECT_EQ(sum.Save("b"), before);
  EXPECT_EQ(sum.updates(), 1);
}

TEST(ExactSumTest, Merge_AddsSumsWeightsAndCounts) {
  const auto layout = LayoutOf(3);
  ExactSum all(layout);
  ExactSum left(layout);
  ExactSum right(layout);
  const Term terms[] = {{0.1f, 3}, {-6e4f, 1000}, {0x1p-40f, 7}, {6e4f, 1000}, {1e-30f, 1}};
  for (size_t i = 0; i < std::size(terms); ++i) {
    const Adapter adapter = Filled(layout, terms[i].value);
    ASSERT_EQ(Add(all, adapter, terms[i].weight), absl::OkStatus());
    ASSERT_EQ(Add(i % 2 == 0 ? left : right, adapter, terms[i].weight), absl::OkStatus());
  }
  ASSERT_EQ(right.Merge(left), absl::OkStatus());
  EXPECT_EQ(right.Save(""), all.Save(""));
  EXPECT_EQ(right.updates(), 5);
  EXPECT_EQ(right.total_weight(), 2011u);
}

// A sum of one element whose total weight is the largest, or `less` below it.
ExactSum Heavy(const std::shared_ptr<const Layout>& layout, uint64_t less) {
  ExactSum sum(layout);
  const Adapter adapter = Filled(layout, 1);
  for (uint64_t left = ExactSum::kMaxTotalWeight - less; left > 0;) {
    const uint64_t weight = std::min(left, ExactSum::kMaxWeight);
    EXPECT_EQ(Add(sum, adapter, weight), absl::OkStatus());
    left -= weight;
  }
  return sum;
}

TEST(ExactSumTest, Merge_OtherLayoutOrTooMuchWeightIsRefused) {
  const auto layout = LayoutOf(1);
  ExactSum sum(layout);
  ASSERT_EQ(Add(sum, Filled(layout, 1), 2), absl::OkStatus());
  const std::string before = sum.Save("");
  EXPECT_THAT(sum.Merge(ExactSum(LayoutOf(1, "u"))).message(), HasSubstr("merge: found a sum of layout"));
  EXPECT_THAT(sum.Merge(Heavy(layout, 1)).message(), HasSubstr("merge: found 274877906942 on top of 2"));
  EXPECT_EQ(sum.Save(""), before);
  EXPECT_EQ(sum.Merge(Heavy(layout, 2)), absl::OkStatus());
}

TEST(ExactSumTest, Restore_GoesOnWithTheSameBits) {
  const auto layout = LayoutOf(5);
  ExactSum sum(layout);
  ASSERT_EQ(Add(sum, Filled(layout, -0.3f), 7), absl::OkStatus());
  ExactSum restored(layout);
  ASSERT_EQ(restored.Restore("b", sum.Save("b")), absl::OkStatus());
  ASSERT_EQ(Add(sum, Filled(layout, 0.7f), 2), absl::OkStatus());
  ASSERT_EQ(Add(restored, Filled(layout, 0.7f), 2), absl::OkStatus());
  EXPECT_EQ(restored.Save("b"), sum.Save("b"));
  EXPECT_EQ(restored.Mean()->ContentHash(), sum.Mean()->ContentHash());
}

TEST(ExactSumTest, Restore_DamagedOrForeignIsDataLossAndChangesNothing) {
  const auto layout = LayoutOf(2);
  ExactSum sum(layout);
  ASSERT_EQ(Add(sum, Filled(layout, 1), 1), absl::OkStatus());
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

  // Made to fit its checksum, but not by any sum.
  const auto forged = [&](size_t from_end, int64_t value) {
    std::string bytes = state.substr(0, state.size() - 32);
    std::memcpy(bytes.data() + bytes.size() - from_end, &value, sizeof(value));
    return bytes + Sha256Of(bytes);
  };
  ASSERT_EQ(other.Restore("b", forged(8, (int64_t{1} << 55) - 1)), absl::OkStatus());
  other = ExactSum(layout);
  refused("b", forged(8, int64_t{1} << 55), "out of range");         // a lower limb
  refused("b", forged(32, (int64_t{1} << 24) + 1), "out of range");  // a higher limb, of weight 1
  refused("b", forged(40, -1), "out of range");                      // updates
  refused("b", forged(40, 2), "out of range");                       // more than their weight
  refused("b", forged(40, 0), "out of range");                       // none, but of some weight
  refused("b", forged(48, int64_t{1} << 38), "out of range");        // total weight
  const std::string nothing = ExactSum(layout).Save("b");
  std::string bytes = nothing.substr(0, nothing.size() - 32);
  ASSERT_EQ(other.Restore("b", nothing), absl::OkStatus());
  bytes[bytes.size() - 1] = 1;
  refused("b", bytes + Sha256Of(bytes), "out of range");  // no updates, but a sum
}

}  // namespace
}  // namespace weft::aggregators
