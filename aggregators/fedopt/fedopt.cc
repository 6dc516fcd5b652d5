// The rule "fedopt": Reddi et al., "Adaptive Federated Optimization", arXiv 2003.00295, Algorithm 2, without correction
// of bias. With D the mean delta of the round, over every element that was sent:
//   m <- b1 m + (1 - b1) D
//   adagrad: v <- v + D^2
//   yogi:    v <- v - (1 - b2) D^2 sign(v - D^2)
//   adam:    v <- b2 v + (1 - b2) D^2
//   step = eta m / (sqrt(v) + tau), v_0 = tau^2
//   momentum (FedAvgM, Hsu et al., arXiv 1909.06335): m <- b1 m + D, step = eta m
// A wrapper: the step goes to the rule inside in place of the mean. m and v are companions "server.m.<name>" and
// "server.v.<name>" of every tensor that can be trained, in the state; an element keeps its own through rounds in which
// it is not sent.

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "aggregators/core/inner.h"
#include "aggregators/core/linear.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/fedopt/fedopt.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "fedopt";
constexpr char kFirst[] = "server.m.", kSecond[] = "server.v.";

bool IsAdaptive(const proto::FedOptConfig& config) { return config.optimizer() != "momentum"; }

// One element. Computed in double, stored in float.
float AdaptiveStep(const proto::FedOptConfig& config, double delta, float& m, float& v) {
  const double square = delta * delta, b2 = config.beta2();
  double second = v;
  if (config.optimizer() == "adagrad") {
    second += square;
  } else if (config.optimizer() == "yogi") {
    second -= (1 - b2) * square * (second > square ? 1 : second < square ? -1 : 0);
  } else {
    second = b2 * second + (1 - b2) * square;
  }
  m = static_cast<float>(config.beta1() * m + (1 - config.beta1()) * delta);
  v = static_cast<float>(second);
  return static_cast<float>(config.learning_rate() * m / (std::sqrt(static_cast<double>(v)) + config.tau()));
}

float MomentumStep(const proto::FedOptConfig& config, double delta, float& m) {
  m = static_cast<float>(config.beta1() * m + delta);
  return static_cast<float>(config.learning_rate() * m);
}

std::span<float> Companion(Adapter& state, const char* prefix, const TensorSpec& tensor) {
  return state.tensor(*state.layout().Find(absl::StrCat(prefix, tensor.name)));
}

class FedOpt : public LinearAggregator {
 public:
  FedOpt(const CreateOptions& create, UpdateTerms terms, proto::FedOptConfig config, std::unique_ptr<Aggregator> inner)
      : LinearAggregator(create, std::move(terms)), config_(std::move(config)), inner_(std::move(inner)) {}

  void FillPlan(proto::Plan* plan) const override {
    inner_->FillPlan(plan);
    LinearAggregator::FillPlan(plan);
  }

 private:
  absl::StatusOr<Adapter> Next(const Adapter& mean, int64_t updates) override {
    Adapter moments = state().Clone();
    Adapter step(mean.layout_ptr());
    for (const TensorSpec& tensor : mean.layout().tensors()) {
      const std::span<const float> delta = mean.tensor(tensor);
      const std::span<float> m = Companion(moments, kFirst, tensor), out = step.tensor(tensor);
      const std::span<float> v = IsAdaptive(config_) ? Companion(moments, kSecond, tensor) : std::span<float>();
      for (size_t i = 0; i < delta.size(); ++i) {
        out[i] =
            IsAdaptive(config_) ? AdaptiveStep(config_, delta[i], m[i], v[i]) : MomentumStep(config_, delta[i], m[i]);
      }
    }
    WEFT_ASSIGN_OR_RETURN(Adapter next, std::move(*inner_).FinishFromMean(step, updates));
    for (const TensorSpec& tensor : moments.layout().tensors()) {
      if (!tensor.role.starts_with(kFirst) && !tensor.role.starts_with(kSecond)) continue;
      const std::span<const float> values = moments.tensor(tensor);
      std::copy(values.begin(), values.end(), next.tensor(*next.layout().Find(tensor.name)).begin());
    }
    return next;
  }

  const proto::FedOptConfig config_;
  std::unique_ptr<Aggregator> inner_;
};

absl::Status Refused(const proto::FedOptConfig& config, const std::string& why) {
  return absl::InvalidArgumentError(
      absl::StrCat("aggregator.config.rule: found ", config.rule().name(), " inside fedopt, which can't be: ", why));
}

absl::Status CheckInner(const proto::FedOptConfig& config, const Inner& inner, const Layout& layout) {
  const Facts facts = inner.rule->facts();
  if (facts.wraps_rule) {
    return Refused(config, absl::StrCat("it must see the clients' updates, of which fedopt hands on a step only; put ",
                                        config.rule().name(), " around fedopt"));
  }
  if (facts.rebases_factors) {
    return Refused(
        config,
        "it turns the factors every round, so that moments of earlier rounds belong to other components; use "
        "ffa_lora or fedavg inside, or the rule alone");
  }
  WEFT_RETURN_IF_ERROR(inner.rule->CheckJob(inner.job, layout));
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> copy, Layout::Create(layout.tensors()));
  WEFT_ASSIGN_OR_RETURN(const Adapter state, inner.rule->InitialState(inner.job, Adapter(std::move(copy))));
  for (const TensorSpec& tensor : state.layout().tensors()) {
    if (!tensor.role.starts_with(kControlPrefix)) continue;
    return Refused(config, "its control variates are no steps to be rescaled; use fedprox inside, or the rule alone");
  }
  return absl::OkStatus();
}

absl::StatusOr<Inner> FindInnerOf(const proto::JobConfig& job, const proto::FedOptConfig& config) {
  return FindInner(job, config.rule(), kName, Need::kFinishFromMean);
}

class FedOptRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  Facts facts() const override {
    return {.linear = true,
            .works_under_secure_aggregation = true,
            .works_under_central_dp = true,
            .finishes_from_mean = true,
            .wraps_rule = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedOptConfig config, ReadConfig<proto::FedOptConfig>(job));
    WEFT_ASSIGN_OR_RETURN(const Inner inner, FindInnerOf(job, config));
    return CheckInner(config, inner, layout);
  }

  absl::StatusOr<Adapter> InitialState(const proto::JobConfig& job, Adapter initial) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedOptConfig config, ReadConfig<proto::FedOptConfig>(job));
    WEFT_ASSIGN_OR_RETURN(const Inner inner, FindInnerOf(job, config));
    WEFT_ASSIGN_OR_RETURN(Adapter state, inner.rule->InitialState(inner.job, std::move(initial)));
    WEFT_ASSIGN_OR_RETURN(const auto trained, SentLayout(state.layout(), AdapterRoles(state.layout()), 0));
    WEFT_ASSIGN_OR_RETURN(state, Extend(state, Companions(*trained, kFirst)));
    if (!IsAdaptive(config)) return state;
    WEFT_ASSIGN_OR_RETURN(state, Extend(state, Companions(*trained, kSecond)));
    for (const TensorSpec& tensor : trained->tensors()) {
      for (float& v : Companion(state, kSecond, tensor)) v = static_cast<float>(config.tau() * config.tau());
    }
    return state;
  }

  // The sum; moments and step; what the rule inside holds.
  int64_t MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t) const override {
    const absl::StatusOr<proto::FedOptConfig> config = ReadConfig<proto::FedOptConfig>(job);
    const absl::StatusOr<Inner> inner = config.ok() ? FindInnerOf(job, *config) : config.status();
    const int64_t inside = inner.ok() ? inner->rule->MemoryBytes(inner->job, state, 1) : 0;
    return LinearAggregator::MemoryBytes(state) + (2 * state.size_bytes()) + inside;
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(proto::FedOptConfig config, ReadConfig<proto::FedOptConfig>(job));
    WEFT_ASSIGN_OR_RETURN(const Inner inner, FindInnerOf(job, config));
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Aggregator> aggregator, inner.rule->Create(inner.job, options));
    proto::Plan plan;
    aggregator->FillPlan(&plan);
    proto::FedOptConfig own = config;
    own.clear_rule();
    UpdateTerms::Options asked{.rule = absl::StrCat(RuleText(kName, own), " around ", InnerText(config.rule())),
                               .roles_trained = {plan.roles_trained().begin(), plan.roles_trained().end()},
                               .roles_sent = {plan.roles_sent().begin(), plan.roles_sent().end()}};
    // The rule inside weighs by examples up to this bound; 1 makes all alike.
    asked.weights.set_by("examples");
    asked.weights.set_max_examples(static_cast<int64_t>(plan.max_examples()));
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, std::move(asked)));
    return std::make_unique<FedOpt>(options, std::move(terms), std::move(config), std::move(aggregator));
  }
};

WEFT_REGISTER_RULE(FedOptRule);

}  // namespace
}  // namespace weft::aggregators
