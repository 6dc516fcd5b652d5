#include "training/optimizer.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace weft {
namespace {

proto::TrainingConfig Config(const std::string& optimizer, double decay, double momentum = 0) {
  proto::TrainingConfig config;
  config.set_optimizer(optimizer);
  config.set_learning_rate(0.1);
  config.set_weight_decay(decay);
  config.set_momentum(momentum);
  return config;
}

// Values after steps with these gradients, from one value of 2.
double Steps(const proto::TrainingConfig& config, const std::vector<double>& gradients) {
  const std::unique_ptr<Optimizer> optimizer = *CreateOptimizer(config);
  at::Tensor values = at::full({1}, 2.0);
  for (const double gradient : gradients) optimizer->Step(values, at::full({1}, gradient));
  return values[0].item<double>();
}

TEST(OptimizerTest, AdamW_FollowsItsEquations) {
  double value = 2, first = 0, second = 0;
  const std::vector<double> gradients = {0.5, -0.25, 3};
  for (size_t t = 1; t <= gradients.size(); ++t) {
    const double g = gradients[t - 1];
    value -= 0.1 * 0.01 * value;
    first = 0.9 * first + 0.1 * g;
    second = 0.999 * second + 0.001 * g * g;
    value -= 0.1 * (first / (1 - std::pow(0.9, t))) / (std::sqrt(second / (1 - std::pow(0.999, t))) + 1e-8);
  }
  EXPECT_NEAR(Steps(Config("adamw", 0.01), gradients), value, 1e-6);
  EXPECT_GT(std::abs(Steps(Config("adamw", 0.011), gradients) - value), 1e-6);
}

TEST(OptimizerTest, Sgd_MomentumAndDecoupledDecay) {
  EXPECT_NEAR(Steps(Config("sgd", 0), {0.5, -0.25}), 2 - 0.05 + 0.025, 1e-6);
  double value = 2 * 0.99 - 0.1 * 0.5;
  value = value * 0.99 - 0.1 * (0.9 * 0.5 - 0.25);
  EXPECT_NEAR(Steps(Config("sgd", 0.1, 0.9), {0.5, -0.25}), value, 1e-6);
  EXPECT_GT(std::abs(Steps(Config("sgd", 0.1, 0.89), {0.5, -0.25}) - value), 1e-6);
}

TEST(OptimizerTest, Create_RefusesUnknownName) {
  const auto optimizer = CreateOptimizer(Config("lion", 0));
  EXPECT_EQ(optimizer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(optimizer.status().message()), ::testing::HasSubstr("\"lion\", expected adamw or sgd"));
}

TEST(ClipGradientTest, ScalesOnlyWhatIsOverTheNorm) {
  at::Tensor gradient = at::full({4}, 3.0);  // norm 6
  ClipGradient(0, gradient);
  EXPECT_EQ(gradient[0].item<float>(), 3);
  ClipGradient(7, gradient);
  EXPECT_EQ(gradient[0].item<float>(), 3);
  ClipGradient(1.5, gradient);
  EXPECT_NEAR(gradient.norm().item<double>(), 1.5, 1e-6);
}

}  // namespace
}  // namespace weft
