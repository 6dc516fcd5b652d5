#include "privacy/clipping/clip.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "common/random.h"

namespace weft::privacy {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr float kInf = std::numeric_limits<float>::infinity();

// Two tensors, so that "flat" means something.
Adapter Delta(const std::vector<float>& values) {
  const auto size = static_cast<int64_t>(values.size());
  Adapter delta(*Layout::Create({{"a", "lora_a", {1}}, {"b", "lora_b", {size - 1}}}));
  std::copy(values.begin(), values.end(), delta.values().begin());
  return delta;
}

// More exact than a double by 11 bits.
long double PreciseNorm(std::span<const float> values) {
  long double sum = 0;
  for (const float v : values) sum += static_cast<long double>(v) * v;
  return std::sqrt(sum);
}

TEST(ClipTest, ClipToNorm_ScalesAllTensorsByOneFactor) {
  Adapter delta = Delta({6, -8, 0});
  const auto result = ClipToNorm(5, delta);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->norm, 10);
  EXPECT_TRUE(result->clipped());
  EXPECT_NEAR(result->factor, 0.5, 0x1p-23);
  EXPECT_LT(result->factor, 0.5);
  EXPECT_NEAR(delta.values()[0], 3, 3 * 0x1p-22);
  EXPECT_NEAR(delta.values()[1], -4, 4 * 0x1p-22);
  EXPECT_EQ(delta.values()[2], 0);
}

TEST(ClipTest, ClipToNorm_WithinTheBound_ChangesNoBit) {
  Adapter delta = Delta({0.3f, -0.4f, 1e-30f});
  const std::string before = delta.ContentHash();
  const auto result = ClipToNorm(0.51, delta);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->clipped());
  EXPECT_EQ(result->factor, 1);
  EXPECT_NEAR(result->norm, 0.5, 1e-7);
  EXPECT_EQ(delta.ContentHash(), before);
}

TEST(ClipTest, ClipToNorm_Zeros_StayZeros) {
  Adapter delta = Delta({0, -0.0f, 0});
  const auto result = ClipToNorm(1e-6, delta);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->norm, 0);
  EXPECT_FALSE(result->clipped());
  EXPECT_THAT(delta.values(), Each(0.0f));
}

TEST(ClipTest, ClipToNorm_NeverOverTheBound_AndIdempotent) {
  Philox philox(5, 5);
  double least = 1;
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<float> values(2 + philox.NextBelow(4000));
    // Equal values all round the same way: the worst case for the norm.
    const bool equal = trial % 3 == 0;
    const double scale = std::exp2(philox.NextDouble() * 40 - 30);
    const auto one = static_cast<float>(philox.NextNormal() * scale + scale * 1e-3);
    for (float& v : values) v = equal ? one : static_cast<float>(philox.NextNormal() * scale);
    Adapter delta = Delta(values);
    const double bound =
        static_cast<double>(PreciseNorm(delta.values())) * (trial % 2 == 0 ? philox.NextDouble() : 1.0);
    const auto result = ClipToNorm(bound, delta);
    ASSERT_TRUE(result.ok()) << result.status();
    const auto norm = PreciseNorm(delta.values());
    ASSERT_LE(norm, bound) << trial;
    least = std::min(least, static_cast<double>(norm / bound));
    const std::string once = delta.ContentHash();
    ASSERT_FALSE(ClipToNorm(bound, delta)->clipped()) << trial;
    ASSERT_EQ(delta.ContentHash(), once);
  }
  EXPECT_GT(least, 1 - 0x1p-22);  // nor needlessly short
}

// What the 2^-23 is for: with the quotient alone some norms come out too long.
TEST(ClipTest, ThePlainQuotientIsNotEnough) {
  int over = 0;
  for (int i = 1; i < 200; ++i) {
    Adapter delta = Delta(std::vector<float>(100, 1 + static_cast<float>(i) / 512));
    const double factor = 1 / L2Norm(delta.values());
    for (float& value : delta.values()) value = static_cast<float>(value * factor);
    over += PreciseNorm(delta.values()) > 1;
  }
  EXPECT_GT(over, 0);
}

TEST(ClipTest, ClipToNorm_LargestAndSmallestValues) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  Adapter large = Delta({kLargest, -kLargest, kLargest, kLargest});
  const auto result = ClipToNorm(1, large);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_DOUBLE_EQ(result->norm, 2.0 * kLargest);
  EXPECT_LE(PreciseNorm(large.values()), 1);
  EXPECT_NEAR(large.values()[1], -0.5, 1e-6);

  constexpr float kSmallest = std::numeric_limits<float>::denorm_min();
  const Adapter small = Delta({kSmallest, 0, 0});
  EXPECT_EQ(ClipFactor(1, small)->norm, kSmallest);
  EXPECT_FALSE(ClipFactor(1, small)->clipped());

  // Values that become subnormal, and round up.
  Adapter mixed = Delta(std::vector<float>(1000, 1e38f));
  mixed.values()[0] = 1e-20f;
  ASSERT_TRUE(ClipToNorm(0x1p-100, mixed).ok());
  EXPECT_LE(PreciseNorm(mixed.values()), 0x1p-100L);
}

TEST(ClipTest, ClipFactor_LeavesTheDelta) {
  const Adapter delta = Delta({6, -8, 0});
  EXPECT_TRUE(ClipFactor(5, delta)->clipped());
  EXPECT_THAT(delta.values(), ElementsAre(6, -8, 0));
}

TEST(ClipTest, BadBound_Refused) {
  for (const double bound : {0.0, -1.0, 0x1p-101, 0x1p101, double{kInf}, std::numeric_limits<double>::quiet_NaN()}) {
    Adapter delta = Delta({6, -8, 0});
    const auto result = ClipToNorm(bound, delta);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << bound;
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("clipping bound"));
    EXPECT_THAT(delta.values(), ElementsAre(6, -8, 0));
  }
}

TEST(ClipTest, NotFinite_RefusedWithTheTensorAndUnchanged) {
  for (const float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
    Adapter delta = Delta({6, -8, bad});
    const auto result = ClipToNorm(5, delta);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("tensor b"));
    EXPECT_EQ(delta.values()[0], 6);
  }
}

TEST(L2NormTest, CloseToTheTruth_AtEverySize) {
  Philox philox(1, 2);
  for (const size_t size : {0, 1, 7, 8, 9, 1023, 1024, 1025, 2048, 5000, 1'000'003}) {
    std::vector<float> values(size);
    for (float& v : values) v = static_cast<float>(std::exp(3 * philox.NextNormal()));
    const auto expected = static_cast<double>(PreciseNorm(values));
    EXPECT_NEAR(L2Norm(values), expected, expected * 0x1p-50) << size;  // promised: 2^-44
    if (size > 0) {
      values[size / 2] *= 2;  // every element counts
      EXPECT_GT(L2Norm(values), expected) << size;
    }
  }
}

}  // namespace
}  // namespace weft::privacy
