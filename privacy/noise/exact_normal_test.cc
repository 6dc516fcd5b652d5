#include "privacy/noise/exact_normal.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <vector>

#include "common/random.h"

namespace weft::privacy {
namespace {

// Draws with kDigitBits at a time.
template <int kDigitBits>
std::vector<__int128> Draws(double stddev, int count) {
  Philox philox(2024, kDigitBits);
  std::vector<uint32_t> buffer(1 << 16);
  RandomWords words;
  std::vector<__int128> draws;
  for (int i = 0; i < count; ++i) {
    if (words.left() < RandomWords::kWordsPerDraw) {
      for (uint32_t& word : buffer) word = philox.Next();
      words = RandomWords(buffer.data(), buffer.data() + buffer.size());
    }
    draws.push_back(ExactNormal<kDigitBits>::Draw(ScaledDeviation::Of(stddev), words));
  }
  return draws;
}

// Chi-square of draws against N(0, (stddev * factor)^2) rounded to whole units, in standard deviations of its own;
// values beyond +-4 stddev are one bin each.
double Surprise(const std::vector<__int128>& draws, double stddev_units, double factor = 1) {
  const int edge = static_cast<int>(std::ceil(4 * stddev_units));
  std::map<int, double> counts;
  for (const __int128 v : draws) ++counts[static_cast<int>(v < -edge ? -edge : v > edge ? edge : v)];
  const auto cdf = [&](double x) { return std::erfc(-x / (std::sqrt(2.0) * stddev_units * factor)) / 2; };
  double statistic = 0;
  for (int value = -edge; value <= edge; ++value) {
    const double low = value == -edge ? 0 : cdf(value - 0.5);
    const double high = value == edge ? 1 : cdf(value + 0.5);
    const double expected = (high - low) * static_cast<double>(draws.size());
    statistic += (counts[value] - expected) * (counts[value] - expected) / expected;
  }
  return (statistic - 2 * edge) / std::sqrt(4.0 * edge);
}

// With a deviation of few units every part of a draw shows: the whole number, the fraction, the rounding, the sign.
// With few bits at a time equal digits are common, and the digits that comparisons leave behind reach the rounding.
TEST(ExactNormalTest, Draw_RoundedNormal_OfFewUnits) {
  for (const double units : {0.8, 1.0, 3.7}) {
    EXPECT_LT(Surprise(Draws<32>(std::ldexp(units, -64), 400'000), units), 4) << units;
    EXPECT_LT(Surprise(Draws<8>(std::ldexp(units, -64), 400'000), units), 4) << units;
    EXPECT_LT(Surprise(Draws<2>(std::ldexp(units, -64), 400'000), units), 4) << units;
    EXPECT_GT(Surprise(Draws<32>(std::ldexp(units, -64), 400'000), units, 1.01), 4) << units;
  }
}

// Draws of one bit at a time often know more than the 64 digits of the head.
TEST(ExactNormalTest, Draw_LowestBitsAreUniform) {
  std::vector<double> counts(64);
  for (const __int128 v : Draws<1>(0x1p-10, 128'000)) ++counts[static_cast<uint64_t>(v) % 64];
  double statistic = 0;
  for (const double count : counts) statistic += (count - 2000) * (count - 2000) / 2000;
  EXPECT_LT(std::abs(statistic - 63), 4 * std::sqrt(2 * 63.0));
}

TEST(ScaledDeviationTest, Of_IsExact) {
  for (const double stddev : {0x1p-40, 0.3, 1.0, 1.5, 12345.678, 0x1p40}) {
    const ScaledDeviation scaled = ScaledDeviation::Of(stddev);
    EXPECT_EQ(std::ldexp(static_cast<double>(scaled.mantissa), -scaled.shift), stddev);
    EXPECT_GE(scaled.mantissa, uint64_t{1} << 52);
    EXPECT_LT(scaled.mantissa, uint64_t{1} << 53);
    EXPECT_GE(scaled.shift, 12);
    EXPECT_LE(scaled.shift, 92);
  }
}

TEST(RandomWordsTest, Below_IsUniformAndUsesWholeWords) {
  Philox philox(1, 1);
  std::vector<uint32_t> buffer(200'000);
  for (uint32_t& word : buffer) word = philox.Next();
  RandomWords words(buffer.data(), buffer.data() + buffer.size());
  std::vector<double> counts(6);
  for (int i = 0; i < 48'000; ++i) ++counts[words.Below(6)];
  double statistic = 0;
  for (const double count : counts) statistic += (count - 8000) * (count - 8000) / 8000;
  EXPECT_LT(statistic, 5 + 4 * std::sqrt(10.0));
  EXPECT_EQ(words.Below(1), 0u);
}

TEST(RandomWordsDeathTest, Take_StuckSourceAborts) {
  const std::vector<uint32_t> zeros(RandomWords::kWordsPerDraw);
  RandomWords words(zeros.data(), zeros.data() + zeros.size());
  EXPECT_DEATH(ExactNormal<32>::Draw(ScaledDeviation::Of(1), words), "");
}

}  // namespace
}  // namespace weft::privacy
