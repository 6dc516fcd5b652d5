#include "training/optimizer.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "training/learning_rate.h"

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
  for (const double gradient : gradients) optimizer->Step(values, at::full({1}, gradient), 1);
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

// Distance from `expected` after four steps of a cosine after one step of warm-up.
double FromTorch(proto::TrainingConfig config, int64_t warmup, const at::Tensor& expected) {
  config.set_schedule("cosine");
  config.set_warmup_steps(warmup);
  const at::Tensor gradients = at::tensor({0.5, -0.25, 3.0, 1e-3, -0.25, 1.0, 0.5, 2e-3,  //
                                           3.0, 0.1, -2.0, -1e-3, 1.0, -1.0, 1.0, -1.0},
                                          at::kFloat)
                                   .view({4, 4});
  const std::unique_ptr<Optimizer> optimizer = *CreateOptimizer(config);
  at::Tensor values = at::tensor({2.0, -1.0, 0.5, 0.0}, at::kFloat);
  for (int64_t t = 0; t < 4; ++t) optimizer->Step(values, gradients[t], LearningRateFactor(config, t, 4));
  return values.sub(expected).abs().max().item<double>();
}

// From torch.optim in fp64 under transformers' get_cosine_schedule_with_warmup(optimizer, 1, 4).
TEST(OptimizerTest, UnderASchedule_AsTorch) {
  struct Case {
    proto::TrainingConfig config;
    at::Tensor expected;
  };
  const Case cases[] = {
      {Config("adamw", 0.01),
       at::tensor({1.9019996132513648, -1.087950830823841, 0.4022540351392575, -0.1134125771566371}, at::kFloat)},
      {Config("sgd", 0), at::tensor({1.775, -1.0825, 0.575, 0.024875}, at::kFloat)},
      {Config("sgd", 0, 0.9), at::tensor({1.64495, -1.13025625, 0.0692, 0.02455302500000001}, at::kFloat)},
  };
  for (const Case& c : cases) {
    EXPECT_LT(FromTorch(c.config, 1, c.expected), 5e-7) << c.config.ShortDebugString();
    EXPECT_GT(FromTorch(c.config, 0, c.expected), 1e-2) << c.config.ShortDebugString();
  }
}

// Two members in one buffer, whose parts are no multiples of what a vector register holds.
TEST(OptimizerTest, MembersInOneBuffer_StepAsEachAlone) {
  for (const proto::TrainingConfig& config : {Config("adamw", 0.01), Config("sgd", 0.01, 0.9)}) {
    const std::unique_ptr<Optimizer> both = *CreateOptimizer(config), one = *CreateOptimizer(config);
    const at::Tensor start = at::linspace(-1, 1, 230), slope = at::linspace(2, -0.3, 230);
    at::Tensor buffer = at::cat({at::full({7}, 5.0), start, at::full({7}, 5.0)});
    at::Tensor values = buffer.slice(0, 7, 237), alone = start.slice(0, 101, 230).clone();
    for (const double factor : {0.5, 1.0, 0.25}) {
      both->Step(values, slope.mul(factor), factor);
      one->Step(alone, slope.mul(factor).slice(0, 101, 230), factor);
    }
    EXPECT_LT(values.slice(0, 101, 230).sub(alone).abs().max().item<double>(), 3e-7);
    EXPECT_GT(values.slice(0, 100, 229).sub(alone).abs().max().item<double>(), 3e-7);
    EXPECT_EQ(buffer.slice(0, 0, 7).sum().item<double>() + buffer.slice(0, 237, 244).sum().item<double>(), 70);
  }
}

TEST(OptimizerTest, Create_RefusesUnknownName) {
  const auto optimizer = CreateOptimizer(Config("lion", 0));
  EXPECT_EQ(optimizer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(optimizer.status().message()), ::testing::HasSubstr("\"lion\", expected adamw or sgd"));
}

TEST(ClipGradientTest, ScalesOnlyWhatIsOverTheNorm) {
  std::vector<at::Tensor> gradients = {at::full({4}, 3.0), at::full({16}, -2.0)};  // norms 6 and 8: 10 together
  ClipGradient(0, gradients);
  EXPECT_EQ(gradients[0][0].item<float>(), 3);
  ClipGradient(11, gradients);
  EXPECT_EQ(gradients[0][0].item<float>(), 3);
  EXPECT_EQ(gradients[1][0].item<float>(), -2);
  ClipGradient(2.5, gradients);
  EXPECT_NEAR(gradients[0][0].item<float>(), 0.75, 1e-6);
  EXPECT_NEAR(gradients[1][0].item<float>(), -0.5, 1e-6);
}

}  // namespace
}  // namespace weft
