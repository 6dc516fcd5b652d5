#include "training/optimizer.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace weft {
namespace {

// Both rules are one pass over memory.
class AdamW : public Optimizer {
 public:
  explicit AdamW(const proto::TrainingConfig& config) : rate_(config.learning_rate()), decay_(config.weight_decay()) {}

  void Step(at::Tensor& values, const at::Tensor& gradient, double factor) override {
    if (!steps_.defined()) {
      first_ = at::zeros_like(values);
      second_ = at::zeros_like(values);
      steps_ = at::full({}, 0, values.options());
    }
    steps_.add_(1);
    at::_fused_adamw_({values}, {gradient}, {first_}, {second_}, {}, {steps_}, rate_ * factor, kBeta1, kBeta2, decay_,
                      kEpsilon, /*amsgrad=*/false, /*maximize=*/false);
  }

 private:
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
  const double rate_, decay_;
  at::Tensor steps_;           // [], where the operator wants it
  at::Tensor first_, second_;  // moments, [n]
};

class Sgd : public Optimizer {
 public:
  explicit Sgd(const proto::TrainingConfig& config)
      : rate_(config.learning_rate()), decay_(config.weight_decay()), momentum_(config.momentum()) {}

  void Step(at::Tensor& values, const at::Tensor& gradient, double factor) override {
    const double rate = rate_ * factor;
    if (decay_ != 0) values.mul_(1 - rate * decay_);  // the operator's own decay goes through the momentum
    const bool first = !velocity_.defined();
    if (momentum_ != 0 && first) velocity_ = at::zeros_like(values);
    const std::vector<at::Tensor> velocities = momentum_ != 0 ? std::vector{velocity_} : std::vector<at::Tensor>();
    at::_fused_sgd_({values}, {gradient}, velocities, /*weight_decay=*/0, momentum_, rate, /*dampening=*/0,
                    /*nesterov=*/false, /*maximize=*/false, first);
  }

 private:
  const double rate_, decay_, momentum_;
  at::Tensor velocity_;  // [n]; undefined without momentum
};

}  // namespace

absl::StatusOr<std::unique_ptr<Optimizer>> CreateOptimizer(const proto::TrainingConfig& config) {
  if (config.optimizer() == "adamw") return std::make_unique<AdamW>(config);
  if (config.optimizer() == "sgd") return std::make_unique<Sgd>(config);
  return absl::InvalidArgumentError(
      absl::StrCat("training.optimizer: found \"", config.optimizer(), "\", expected adamw or sgd"));
}

void ClipGradient(double max_norm, std::vector<at::Tensor>& gradients) {
  if (max_norm <= 0 || gradients.empty()) return;
  std::vector<at::Tensor> norms;
  norms.reserve(gradients.size());
  for (const at::Tensor& gradient : gradients) norms.push_back(gradient.norm());
  const at::Tensor scale = at::stack(norms).norm().add_(1e-6).reciprocal_().mul_(max_norm).clamp_max_(1);
  for (at::Tensor& gradient : gradients) gradient.mul_(scale);
}

}  // namespace weft
