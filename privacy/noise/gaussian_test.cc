#include "privacy/noise/gaussian.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace weft::privacy {
namespace {

using ::testing::HasSubstr;

// Draws in units of stddev.
std::vector<double> Standardized(NoiseSource& source, double stddev, size_t count) {
  std::vector<__int128> noise(count);
  const absl::Status status = source.Fill(stddev, noise);
  EXPECT_TRUE(status.ok()) << status;
  std::vector<double> values;
  for (const __int128 v : noise) values.push_back(std::ldexp(static_cast<double>(v), -64) / stddev);
  return values;
}

double NormalCdf(double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; }

// Kolmogorov and Smirnov's statistic against N(0, 1), times sqrt(n): over 1.95 once in a thousand samples.
double KsStatistic(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const double n = static_cast<double>(values.size());
  double largest = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double cdf = NormalCdf(values[i]);
    largest = std::max({largest, (static_cast<double>(i) + 1) / n - cdf, cdf - static_cast<double>(i) / n});
  }
  return largest * std::sqrt(n);
}
constexpr double kKsLimit = 1.95;

// Mean of the values to this power.
double Moment(const std::vector<double>& values, int power) {
  double sum = 0;
  for (const double v : values) sum += std::pow(v, power);
  return sum / static_cast<double>(values.size());
}

TEST(SeededNoiseTest, Fill_IsNormal) {
  SeededNoise source(7, 1);
  for (const double stddev : {NoiseSource::kLeastDeviation, 0.37, 1.0, NoiseSource::kLargestDeviation}) {
    const std::vector<double> values = Standardized(source, stddev, 500'000);
    EXPECT_LT(KsStatistic(values), kKsLimit) << stddev;
    // Five standard errors of each moment: 1/n, 2/n, 15/n, 96/n.
    const double root = std::sqrt(500'000.0);
    EXPECT_NEAR(Moment(values, 1), 0, 5 / root) << stddev;
    EXPECT_NEAR(Moment(values, 2), 1, 5 * std::sqrt(2) / root) << stddev;
    EXPECT_NEAR(Moment(values, 3), 0, 5 * std::sqrt(15) / root) << stddev;
    EXPECT_NEAR(Moment(values, 4), 3, 5 * std::sqrt(96) / root) << stddev;
  }
}

TEST(SeededNoiseTest, Fill_ADistributionThatIsOffIsFound) {
  SeededNoise source(7, 1);
  const std::vector<double> values = Standardized(source, 1, 500'000);
  std::vector<double> wider, shifted;
  for (const double v : values) {
    wider.push_back(v * 1.02);
    shifted.push_back(v + 0.01);
  }
  EXPECT_GT(KsStatistic(wider), kKsLimit);
  EXPECT_GT(KsStatistic(shifted), kKsLimit);
  EXPECT_GT(std::abs(Moment(wider, 2) - 1), 5 * std::sqrt(2 / 500'000.0));
  EXPECT_GT(std::abs(Moment(shifted, 1)), 5 / std::sqrt(500'000.0));
}

TEST(SeededNoiseTest, Fill_Tails) {
  SeededNoise source(11, 1);
  constexpr size_t kCount = 2'000'000;
  const std::vector<double> values = Standardized(source, 2.5, kCount);
  for (const double edge : {2.0, 3.0, 4.0}) {
    const double expected = kCount * NormalCdf(-edge);
    const auto above = std::count_if(values.begin(), values.end(), [&](double v) { return v > edge; });
    const auto below = std::count_if(values.begin(), values.end(), [&](double v) { return v < -edge; });
    EXPECT_NEAR(static_cast<double>(above), expected, 4 * std::sqrt(expected)) << edge;
    EXPECT_NEAR(static_cast<double>(below), expected, 4 * std::sqrt(expected)) << edge;
    // Noise that is 10 % narrower must show.
    EXPECT_GT(std::abs(kCount * NormalCdf(-edge / 0.9) - expected), 4 * std::sqrt(expected)) << edge;
  }
}

// Over 5 standard deviations of its own is too far.
void ExpectChiSquare(double statistic, double freedom) {
  EXPECT_LT(std::abs(statistic - freedom), 5 * std::sqrt(2 * freedom)) << statistic << " with " << freedom;
}

TEST(SeededNoiseTest, Fill_EveryUnitComesOut) {
  SeededNoise source(3, 1);
  std::vector<__int128> noise(256'000);
  ASSERT_TRUE(source.Fill(0.3, noise).ok());
  std::vector<double> counts(256);
  for (const __int128 v : noise) ++counts[static_cast<uint8_t>(v)];
  double statistic = 0;
  for (const double count : counts) statistic += (count - 1000) * (count - 1000) / 1000;
  ExpectChiSquare(statistic, 255);
}

TEST(SeededNoiseTest, Fill_SplitsOfTheCallsChangeNothing) {
  SeededNoise whole(5, 2), parts(5, 2), other_seed(6, 2), other_stream(5, 3);
  constexpr size_t kCount = 20'000;  // several buffers
  std::vector<__int128> a(kCount), b(kCount), c(kCount), d(kCount);
  ASSERT_TRUE(whole.Fill(1, a).ok());
  for (size_t begin = 0, size = 1; begin < kCount; begin += size, size = size * 3 + 1) {
    ASSERT_TRUE(parts.Fill(1, std::span(b).subspan(begin, std::min(size, kCount - begin))).ok());
  }
  ASSERT_TRUE(other_seed.Fill(1, c).ok());
  ASSERT_TRUE(other_stream.Fill(1, d).ok());
  EXPECT_TRUE(a == b);
  EXPECT_FALSE(a == c);
  EXPECT_FALSE(a == d);
}

TEST(SeededNoiseTest, IsSecure_No) { EXPECT_FALSE(SeededNoise(1, 1).is_secure()); }

// False once in 10^8 runs, as the draws differ from run to run.
TEST(SecureNoiseTest, Fill_IsNormal) {
  SecureNoise source;
  EXPECT_TRUE(source.is_secure());
  const std::vector<double> values = Standardized(source, 1.5, 200'000);
  EXPECT_LT(KsStatistic(values), 3.2);
  EXPECT_NEAR(Moment(values, 1), 0, 6 / std::sqrt(200'000.0));
  EXPECT_NEAR(Moment(values, 2), 1, 6 * std::sqrt(2 / 200'000.0));
}

TEST(SecureNoiseTest, Fill_NeverTheSameAgain) {
  SecureNoise source, other;
  std::vector<__int128> a(100), b(100), c(100);
  ASSERT_TRUE(source.Fill(1, a).ok());
  ASSERT_TRUE(source.Fill(1, b).ok());
  ASSERT_TRUE(other.Fill(1, c).ok());
  EXPECT_FALSE(a == b);
  EXPECT_FALSE(a == c);
}

int calls_before_failure = 0;
int FailLater(unsigned char* bytes, int size) {
  std::fill_n(bytes, size, 0xa5);  // as if partly written
  if (calls_before_failure-- <= 0) return 0;
  Philox words(1, 1);
  for (int i = 0; i < size; ++i) bytes[i] = static_cast<unsigned char>(words.Next());
  return 1;
}

TEST(SecureNoiseTest, Fill_GeneratorFails_IsAnErrorAndNoNoise) {
  for (const int calls : {0, 3}) {
    calls_before_failure = calls;
    SecureNoise source(FailLater);
    std::vector<__int128> noise(100'000, 1);
    const absl::Status status = source.Fill(1, noise);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()), HasSubstr("no random bytes"));
    EXPECT_TRUE(std::all_of(noise.begin(), noise.end(), [](__int128 v) { return v == 0; })) << calls;
    // It does not go on with what it had.
    EXPECT_FALSE(source.Fill(1, std::span(noise).first(1)).ok());
  }
}

TEST(NoiseSourceTest, Fill_BadDeviationRefused) {
  SeededNoise source(1, 1);
  for (const double stddev : {0.0, -1.0, 0x1p-41, 0x1p41, std::numeric_limits<double>::infinity(),
                              std::numeric_limits<double>::quiet_NaN()}) {
    std::vector<__int128> noise(3, 1);
    const absl::Status status = source.Fill(stddev, noise);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << stddev;
    EXPECT_THAT(std::string(status.message()), HasSubstr("standard deviation"));
    EXPECT_TRUE(std::all_of(noise.begin(), noise.end(), [](__int128 v) { return v == 0; }));
  }
  EXPECT_TRUE(source.Fill(1, {}).ok());
}

}  // namespace
}  // namespace weft::privacy
