#include "training/optimizer.h"

#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace weft {
namespace {

class AdamW : public Optimizer {
 public:
  explicit AdamW(const proto::TrainingConfig& config) : rate_(config.learning_rate()), decay_(config.weight_decay()) {}

  void Step(at::Tensor& values, const at::Tensor& gradient) override {
    if (++steps_ == 1) {
      first_ = at::zeros_like(values);
      second_ = at::zeros_like(values);
    }
    values.mul_(1 - rate_ * decay_);
    first_.lerp_(gradient, 1 - kBeta1);
    second_.mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
    const double correction1 = 1 - std::pow(kBeta1, steps_), correction2 = 1 - std::pow(kBeta2, steps_);
    values.addcdiv_(first_, second_.sqrt().div_(std::sqrt(correction2)).add_(kEpsilon), -rate_ / correction1);
  }

 private:
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
  const double rate_, decay_;
  int64_t steps_ = 0;
  at::Tensor first_, second_;  // moments, [n]
};

class Sgd : public Optimizer {
 public:
  explicit Sgd(const proto::TrainingConfig& config)
      : rate_(config.learning_rate()), decay_(config.weight_decay()), momentum_(config.momentum()) {}

  void Step(at::Tensor& values, const at::Tensor& gradient) override {
    values.mul_(1 - rate_ * decay_);
    if (momentum_ == 0) {
      values.sub_(gradient, rate_);
      return;
    }
    if (velocity_.defined()) {
      velocity_.mul_(momentum_).add_(gradient);
    } else {
      velocity_ = gradient.clone();
    }
    values.sub_(velocity_, rate_);
  }

 private:
  const double rate_, decay_, momentum_;
  at::Tensor velocity_;  // [n]
};

}  // namespace

absl::StatusOr<std::unique_ptr<Optimizer>> CreateOptimizer(const proto::TrainingConfig& config) {
  if (config.optimizer() == "adamw") return std::make_unique<AdamW>(config);
  if (config.optimizer() == "sgd") return std::make_unique<Sgd>(config);
  return absl::InvalidArgumentError(
      absl::StrCat("training.optimizer: found \"", config.optimizer(), "\", expected adamw or sgd"));
}

void ClipGradient(double max_norm, at::Tensor& gradient) {
  if (max_norm <= 0) return;
  const double norm = gradient.norm().item<double>();
  if (const double scale = max_norm / (norm + 1e-6); scale < 1) gradient.mul_(scale);
}

}  // namespace weft
