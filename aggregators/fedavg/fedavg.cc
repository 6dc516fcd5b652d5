// The rule "fedavg": McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
// arXiv 1602.05629, Algorithm 1: w_{t+1} = sum_k (n_k / n) w_k, here as w_t + sum_k (n_k / n) (w_k - w_t) over the
// updates of the round, n_k = min(examples of k, max_examples) and n their sum. Applied to every tensor of the adapter;
// for LoRA that is the mean of the factors A and B apart (FedIT, arXiv 2305.05644), not of their products.

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "aggregators/core/linear.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/fedavg/fedavg.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "fedavg";

class FedAvgRule : public Rule {
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
    WEFT_ASSIGN_OR_RETURN(const proto::FedAvgConfig config, ReadConfig<proto::FedAvgConfig>(job));
    return CheckTotalWeight(job, config.weights());
  }

  int64_t MemoryBytes(const proto::JobConfig&, const Layout& state, int64_t) const override {
    return LinearAggregator::MemoryBytes(state);
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedAvgConfig config, ReadConfig<proto::FedAvgConfig>(job));
    const std::vector<std::string> roles = AdapterRoles(options.global->layout());
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = config.weights(),
                                                                           .roles_trained = roles,
                                                                           .roles_sent = roles}));
    return std::make_unique<LinearAggregator>(options, std::move(terms));
  }
};

WEFT_REGISTER_RULE(FedAvgRule);

}  // namespace
}  // namespace weft::aggregators
