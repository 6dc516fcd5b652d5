// The rule "fed_sb": Singhal et al., "Fed-SB: A Silver Bullet for Extreme Communication Efficiency and Performance in
// (Private) Federated LoRA Fine-Tuning", arXiv 2502.15436, section 3: of dW = s B R A only the small matrix R is
// trained, sent and averaged; B and A are fixed and common. Exact: sum_k p_k B R_k A = B Rbar A. A head is trained,
// sent and averaged beside R. Needs adapter form lora_sb.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "aggregators/core/form_check.h"
#include "aggregators/core/linear.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/fed_sb/fed_sb.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "fed_sb";
constexpr char kRoleR[] = "lora_r";

class FedSbRule : public Rule {
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
    WEFT_ASSIGN_OR_RETURN(const proto::FedSbConfig config, ReadConfig<proto::FedSbConfig>(job));
    if (!HasRole(layout, kRoleR)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "aggregator.name: found fed_sb with adapter.form ", job.adapter().form(), ", whose tensors have roles ",
          RolesText(layout),
          "; the rule needs a matrix R of role lora_r between fixed factors: use adapter.form lora_sb, or ",
          "aggregator ffa_lora with adapter.form lora"));
    }
    return CheckTotalWeight(job, config.weights());
  }

  int64_t MemoryBytes(const proto::JobConfig&, const Layout& state, int64_t) const override {
    return LinearAggregator::MemoryBytes(state);
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedSbConfig config, ReadConfig<proto::FedSbConfig>(job));
    const std::vector<std::string> roles = AdapterRoles(options.global->layout());
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = config.weights(),
                                                                           .roles_trained = roles,
                                                                           .roles_sent = roles}));
    return std::make_unique<LinearAggregator>(options, std::move(terms));
  }
};

WEFT_REGISTER_RULE(FedSbRule);

}  // namespace
}  // namespace weft::aggregators
