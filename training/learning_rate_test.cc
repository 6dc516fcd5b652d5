#include "training/learning_rate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace weft {
namespace {

proto::TrainingConfig Config(const std::string& schedule, int64_t warmup) {
  proto::TrainingConfig config;
  config.set_schedule(schedule);
  config.set_warmup_steps(warmup);
  return config;
}

double Largest(const proto::TrainingConfig& config, const std::vector<double>& expected) {
  double largest = 0;
  for (size_t t = 0; t < expected.size(); ++t) {
    const auto step = static_cast<int64_t>(t), steps = static_cast<int64_t>(expected.size());
    largest = std::max(largest, std::abs(LearningRateFactor(config, step, steps) - expected[t]));
  }
  return largest;
}

// From transformers' schedules of the same names over eight steps.
TEST(LearningRateFactorTest, Schedules_AsTransformers) {
  struct Case {
    const char* schedule;
    int64_t warmup;
    std::vector<double> expected;
  };
  const double third = 1.0 / 3;
  const Case cases[] = {
      {"constant", 0, {1, 1, 1, 1, 1, 1, 1, 1}},
      {"constant", 3, {0, third, 2 * third, 1, 1, 1, 1, 1}},
      {"linear", 0, {1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125}},
      {"linear", 3, {0, third, 2 * third, 1, 0.8, 0.6, 0.4, 0.2}},
      {"cosine",
       0,
       {1, 0.9619397662556434, 0.8535533905932737, 0.6913417161825449, 0.5, 0.30865828381745514, 0.14644660940672627,
        0.03806023374435663}},
      {"cosine",
       3,
       {0, third, 2 * third, 1, 0.9045084971874737, 0.6545084971874737, 0.34549150281252633, 0.09549150281252633}},
      {"cosine", 10, {0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}},
  };
  for (const Case& c : cases) {
    EXPECT_LT(Largest(Config(c.schedule, c.warmup), c.expected), 1e-15) << c.schedule << " " << c.warmup;
    EXPECT_GT(Largest(Config(c.schedule, c.warmup + 1), c.expected), 1e-3) << c.schedule << " " << c.warmup;
  }
}

TEST(LearningRateFactorTest, AfterTheEnd_StaysAtZero) {
  EXPECT_EQ(LearningRateFactor(Config("linear", 2), 8, 8), 0);
  EXPECT_EQ(LearningRateFactor(Config("linear", 2), 20, 8), 0);
  EXPECT_EQ(LearningRateFactor(Config("cosine", 2), 8, 8), 0);
}

TEST(LearningRateFactorTest, WarmUpAsLongAsTheRound_IsFinite) {
  EXPECT_EQ(LearningRateFactor(Config("linear", 4), 4, 4), 1);
  EXPECT_EQ(LearningRateFactor(Config("cosine", 4), 3, 4), 0.75);
}

}  // namespace
}  // namespace weft
