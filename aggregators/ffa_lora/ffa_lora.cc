// The rule "ffa_lora": Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", arXiv 2403.12313, section
// 4: A stays as it started, the same at every client; B is trained, sent and averaged. Exact: sum_k p_k B_k A = Bbar A.
// A head is trained, sent and averaged beside B.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapters/factors.h"
#include "aggregators/core/form_check.h"
#include "aggregators/core/linear.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/ffa_lora/ffa_lora.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "ffa_lora";

class FfaLoraRule : public Rule {
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
    WEFT_ASSIGN_OR_RETURN(const proto::FfaLoraConfig config, ReadConfig<proto::FfaLoraConfig>(job));
    WEFT_RETURN_IF_ERROR(CheckLoraFactors(kName, job, layout));
    return CheckTotalWeight(job, config.weights());
  }

  int64_t MemoryBytes(const proto::JobConfig&, const Layout& state, int64_t) const override {
    return LinearAggregator::MemoryBytes(state);
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FfaLoraConfig config, ReadConfig<proto::FfaLoraConfig>(job));
    const std::vector<std::string> roles = AdapterRolesWithout(options.global->layout(), kRoleLoraA);
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = config.weights(),
                                                                           .roles_trained = roles,
                                                                           .roles_sent = roles}));
    return std::make_unique<LinearAggregator>(options, std::move(terms));
  }
};

WEFT_REGISTER_RULE(FfaLoraRule);

}  // namespace
}  // namespace weft::aggregators
