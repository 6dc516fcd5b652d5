// The rule "lora_a2": Koo et al., "Towards Robust and Efficient Federated Low-Rank Adaptation with Heterogeneous
// Clients", arXiv 2410.22815: odd rounds train B with A frozen, even rounds A with B frozen, as in RoLoRA; of all
// components of the factor in turn, over all modules, a client sends the `budget` ones of highest score |dB_j A_j|_F
// (or |B_j dA_j|_F), which is the plan's keep_components. What was not sent counts as no change. The server averages. B
// learns at rate_ratio times the rate of A. A head is trained, sent and averaged in every round.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "aggregators/core/form_check.h"
#include "aggregators/core/linear.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/lora_a2/lora_a2.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "lora_a2";

bool TrainsB(int64_t round) { return round % 2 == 1; }

class LoraA2 : public LinearAggregator {
 public:
  LoraA2(const CreateOptions& create, UpdateTerms terms, proto::LoraA2Config config)
      : LinearAggregator(create, std::move(terms)), config_(std::move(config)), trains_b_(TrainsB(create.round)) {}

  void FillPlan(proto::Plan* plan) const override {
    LinearAggregator::FillPlan(plan);
    plan->set_keep_components(config_.budget());
    if (trains_b_) (*plan->mutable_learning_rate_scale())[kRoleLoraB] = config_.rate_ratio();
  }

 private:
  const proto::LoraA2Config config_;
  const bool trains_b_;
};

class LoraA2Rule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  // Not under secure aggregation: which components were sent is not hidden by a mask over the values.
  Facts facts() const override {
    return {.linear = true, .works_under_central_dp = true, .finishes_from_mean = true, .returns_single_update = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::LoraA2Config config, ReadConfig<proto::LoraA2Config>(job));
    WEFT_RETURN_IF_ERROR(CheckLoraFactors(kName, job, layout));
    WEFT_RETURN_IF_ERROR(CheckTotalWeight(job, config.weights()));
    WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(layout));
    int64_t components = 0;
    for (const FactorPair& pair : pairs) components += pair.rank;
    if (config.budget() <= components) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "aggregator.config.budget: found ", config.budget(), ", expected at most the ", components, " components of ",
        pairs.size(), " modules; lower it, or use aggregator rolora, which sends them all"));
  }

  int64_t MemoryBytes(const proto::JobConfig&, const Layout& state, int64_t) const override {
    return LinearAggregator::MemoryBytes(state);
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(proto::LoraA2Config config, ReadConfig<proto::LoraA2Config>(job));
    const std::vector<std::string> roles =
        AdapterRolesWithout(options.global->layout(), TrainsB(options.round) ? kRoleLoraA : kRoleLoraB);
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = config.weights(),
                                                                           .roles_trained = roles,
                                                                           .roles_sent = roles}));
    return std::make_unique<LoraA2>(options, std::move(terms), std::move(config));
  }
};

WEFT_REGISTER_RULE(LoraA2Rule);

}  // namespace
}  // namespace weft::aggregators
