// The rule "scaffold": Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
// arXiv 1910.06378, Algorithm 1 with option II. Clients step by g - c_k + c and send dy_k = y_k - x and
// dc_k = c_k' - c_k, where c_k' = c_k - c + (x - y_k) / (T eta_l). With means over the clients S of the round, all
// alike:
//   x <- x + eta_g mean(dy)        c <- c + |S| / N mean(dc)
// c is a companion "control.<name>" of every trained tensor, in the state; c_k stays with the client.

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "aggregators/core/linear.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/scaffold/scaffold.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "scaffold";

std::vector<std::string> WithControls(std::vector<std::string> roles) {
  const size_t trained = roles.size();
  for (size_t i = 0; i < trained; ++i) roles.push_back(std::string(kControlPrefix) + roles[i]);
  return roles;
}

class Scaffold : public LinearAggregator {
 public:
  Scaffold(const CreateOptions& create, UpdateTerms terms, proto::ScaffoldConfig config)
      : LinearAggregator(create, std::move(terms)), config_(std::move(config)) {}

  void FillPlan(proto::Plan* plan) const override {
    LinearAggregator::FillPlan(plan);
    plan->set_control_variates(true);
  }

 private:
  absl::StatusOr<Adapter> Next(const Adapter& mean, int64_t updates) override {
    // c is the mean of all c_k; more updates than clients would take it beyond that.
    const double share = std::min(1.0, static_cast<double>(updates) / static_cast<double>(config_.clients()));
    Adapter step = mean.Clone();
    for (const TensorSpec& tensor : step.layout().tensors()) {
      const double rate = tensor.role.starts_with(kControlPrefix) ? share : config_.server_rate();
      for (float& x : step.tensor(tensor)) x = static_cast<float>(rate * x);
    }
    return Plus(state(), step);
  }

  const proto::ScaffoldConfig config_;
};

absl::Status CheckPlainSgd(const proto::TrainingConfig& training) {
  const auto refused = [](const std::string& found, const char* why) {
    return absl::InvalidArgumentError(
        absl::StrCat(found, " under scaffold: ", why,
                     "; set optimizer sgd, momentum 0 and clip_grad_norm 0, or use aggregator fedprox, which takes "
                     "every optimizer"));
  };
  if (training.optimizer() != "sgd") {
    return refused(absl::StrCat("training.optimizer: found ", training.optimizer()),
                   "its control variates are mean gradients, which only steps of plain SGD add up to");
  }
  if (training.momentum() != 0) {
    return refused(absl::StrCat("training.momentum: found ", training.momentum()),
                   "with momentum the steps of a round do not add up to its gradients");
  }
  if (training.clip_grad_norm() != 0) {
    return refused(absl::StrCat("training.clip_grad_norm: found ", training.clip_grad_norm()),
                   "clipped steps do not add up to gradients");
  }
  return absl::OkStatus();
}

class ScaffoldRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  // Not under central DP: |S| enters the next state beside the mean, and would have to be hidden too.
  Facts facts() const override {
    return {
        .linear = true, .works_under_secure_aggregation = true, .finishes_from_mean = true, .keeps_client_state = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout&) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::ScaffoldConfig config, ReadConfig<proto::ScaffoldConfig>(job));
    WEFT_RETURN_IF_ERROR(CheckPlainSgd(job.training()));
    if (!job.selection().has_clients() || job.selection().clients() <= config.clients()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("aggregator.config.clients: found ", config.clients(),
                                                   " clients in all, expected at least selection.clients = ",
                                                   job.selection().clients(), "; count every client of the job"));
  }

  absl::StatusOr<Adapter> InitialState(const proto::JobConfig&, Adapter initial) const override {
    WEFT_ASSIGN_OR_RETURN(const auto trained, SentLayout(initial.layout(), AdapterRoles(initial.layout()), 0));
    return Extend(initial, Companions(*trained, kControlPrefix));
  }

  int64_t MemoryBytes(const proto::JobConfig&, const Layout& state, int64_t) const override {
    return LinearAggregator::MemoryBytes(state) + state.size_bytes();  // and the step
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(proto::ScaffoldConfig config, ReadConfig<proto::ScaffoldConfig>(job));
    const std::vector<std::string> roles = AdapterRoles(options.global->layout());
    UpdateTerms::Options asked{
        .rule = RuleText(kName, config), .roles_trained = roles, .roles_sent = WithControls(roles)};
    asked.weights.set_by("uniform");
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, std::move(asked)));
    return std::make_unique<Scaffold>(options, std::move(terms), std::move(config));
  }
};

WEFT_REGISTER_RULE(ScaffoldRule);

}  // namespace
}  // namespace weft::aggregators
