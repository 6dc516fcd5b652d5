// The rule "fedsa_lora": Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning",
// arXiv 2410.01463, section 3: clients train A and B; A is sent and averaged, B (and by default the head) stays with
// the client from round to round. The global state holds the B that newcomers start from; there is no global model.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapters/factors.h"
#include "aggregators/core/form_check.h"
#include "aggregators/core/linear.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/fedsa_lora/fedsa_lora.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "fedsa_lora";
constexpr char kRoleHead[] = "head";

class FedSaLora : public LinearAggregator {
 public:
  FedSaLora(const CreateOptions& create, UpdateTerms terms, std::vector<std::string> roles_local)
      : LinearAggregator(create, std::move(terms)), roles_local_(std::move(roles_local)) {}

  void FillPlan(proto::Plan* plan) const override {
    LinearAggregator::FillPlan(plan);
    plan->clear_roles_local();
    for (const std::string& role : roles_local_) plan->add_roles_local(role);
  }

 private:
  const std::vector<std::string> roles_local_;
};

class FedSaLoraRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  Facts facts() const override {
    return {.linear = true,
            .works_under_secure_aggregation = true,
            .works_under_central_dp = true,
            .finishes_from_mean = true,
            .keeps_client_state = true,
            .returns_single_update = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedSaLoraConfig config, ReadConfig<proto::FedSaLoraConfig>(job));
    WEFT_RETURN_IF_ERROR(CheckLoraFactors(kName, job, layout));
    return CheckTotalWeight(job, config.weights());
  }

  int64_t MemoryBytes(const proto::JobConfig&, const Layout& state, int64_t) const override {
    return LinearAggregator::MemoryBytes(state);
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedSaLoraConfig config, ReadConfig<proto::FedSaLoraConfig>(job));
    const std::vector<std::string> roles = AdapterRoles(options.global->layout());
    std::vector<std::string> sent, local;
    for (const std::string& role : roles) {
      const bool stays = role == kRoleLoraB || (role == kRoleHead && config.head() == "local");
      (stays ? local : sent).push_back(role);
    }
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = config.weights(),
                                                                           .roles_trained = roles,
                                                                           .roles_sent = std::move(sent)}));
    return std::make_unique<FedSaLora>(options, std::move(terms), std::move(local));
  }
};

WEFT_REGISTER_RULE(FedSaLoraRule);

}  // namespace
}  // namespace weft::aggregators
