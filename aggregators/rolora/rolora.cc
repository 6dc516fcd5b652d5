// The rule "rolora": Chen et al., "Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA",
// arXiv 2502.01755, Algorithm 1: odd rounds train, send and average B with A frozen, even rounds A with B frozen. Exact
// in every round, for one factor is common. Round 1 must be B's: while B = 0 the gradient of A is 0. A head is trained,
// sent and averaged in every round. The phase follows from the number of the round alone.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapters/factors.h"
#include "aggregators/core/form_check.h"
#include "aggregators/core/linear.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/rolora/rolora.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "rolora";

const char* FrozenRole(int64_t round) { return round % 2 == 1 ? kRoleLoraA : kRoleLoraB; }

class RoLoraRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  Facts facts() const override {
    return {.linear = true,
            .works_under_secure_aggregation = true,
            .works_under_central_dp = true,
            .finishes_from_mean = true,
            .returns_single_update = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::RoLoraConfig config, ReadConfig<proto::RoLoraConfig>(job));
    WEFT_RETURN_IF_ERROR(CheckLoraFactors(kName, job, layout));
    return CheckTotalWeight(job, config.weights());
  }

  int64_t MemoryBytes(const proto::JobConfig&, const Layout& state, int64_t) const override {
    return LinearAggregator::MemoryBytes(state);
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::RoLoraConfig config, ReadConfig<proto::RoLoraConfig>(job));
    const std::vector<std::string> roles = AdapterRolesWithout(options.global->layout(), FrozenRole(options.round));
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = config.weights(),
                                                                           .roles_trained = roles,
                                                                           .roles_sent = roles}));
    return std::make_unique<LinearAggregator>(options, std::move(terms));
  }
};

WEFT_REGISTER_RULE(RoLoraRule);

}  // namespace
}  // namespace weft::aggregators
