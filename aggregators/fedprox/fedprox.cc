// The rule "fedprox": Li et al., "Federated Optimization in Heterogeneous Networks", arXiv 1812.06127, Algorithm 2:
// clients minimise F_k(w) + mu/2 |w - w_t|^2, here over the trained tensors, and the server averages. The term is the
// plan's proximal_mu; the server's half is FedAvg's.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "aggregators/core/linear.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/fedprox/fedprox.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "fedprox";

class FedProx : public LinearAggregator {
 public:
  FedProx(const CreateOptions& create, UpdateTerms terms, double mu)
      : LinearAggregator(create, std::move(terms)), mu_(mu) {}

  void FillPlan(proto::Plan* plan) const override {
    LinearAggregator::FillPlan(plan);
    plan->set_proximal_mu(mu_);
  }

 private:
  const double mu_;
};

class FedProxRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  Facts facts() const override {
    return {.linear = true,
            .works_under_secure_aggregation = true,
            .works_under_central_dp = true,
            .finishes_from_mean = true,
            .returns_single_update = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout&) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedProxConfig config, ReadConfig<proto::FedProxConfig>(job));
    return CheckTotalWeight(job, config.weights());
  }

  int64_t MemoryBytes(const proto::JobConfig&, const Layout& state, int64_t) const override {
    return LinearAggregator::MemoryBytes(state);
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedProxConfig config, ReadConfig<proto::FedProxConfig>(job));
    const std::vector<std::string> roles = AdapterRoles(options.global->layout());
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = config.weights(),
                                                                           .roles_trained = roles,
                                                                           .roles_sent = roles}));
    return std::make_unique<FedProx>(options, std::move(terms), config.mu());
  }
};

WEFT_REGISTER_RULE(FedProxRule);

}  // namespace
}  // namespace weft::aggregators
