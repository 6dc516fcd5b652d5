// The rule "lora_fair": Bian et al., "LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and Initialization
// Refinement", arXiv 2411.14961, equation 7 and section 4.2: clients start from (Abar, B'), where Abar = sum_k p_k A_k
// and B' corrects Bbar = sum_k p_k B_k so that B' Abar comes closer to the mean product D = sum_k p_k B_k A_k.
// aggregators/core/factored_fair.h says how B' is found. All other tensors are averaged as fedavg does.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "aggregators/core/factored_fair.h"
#include "aggregators/core/form_check.h"
#include "aggregators/core/products.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/lora_fair/lora_fair.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "lora_fair";

class LoraFair : public ProductAggregator {
 public:
  LoraFair(const CreateOptions& create, UpdateTerms terms, const proto::LoraFairConfig& config)
      : ProductAggregator(create, std::move(terms)),
        least_squares_(config.objective() == "least_squares"),
        lambda_(config.lambda()),
        max_steps_(config.max_steps()) {}

 private:
  absl::Status Solve(FactorStack& stack, const ModuleTargets& targets) const override {
    const Factors mean = stack.Mean();
    mean.a.CopyTo(targets.a);
    mean.b.CopyTo(targets.b);
    if (stack.clients().size() == 1) return absl::OkStatus();  // nothing was lost: not a bit may change
    if (least_squares_) {
      LeastSquaresB(stack, lambda_).CopyTo(targets.b);
    } else {
      CosineB(stack, {.lambda = lambda_, .max_steps = max_steps_}).b.CopyTo(targets.b);
    }
    return absl::OkStatus();
  }

  const bool least_squares_;
  const double lambda_;
  const int64_t max_steps_;
};

class LoraFairRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  Facts facts() const override {
    return {.needs_single_updates = true, .needs_products = true, .returns_single_update = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::LoraFairConfig config, ReadConfig<proto::LoraFairConfig>(job));
    WEFT_RETURN_IF_ERROR(CheckLoraFactors(kName, job, layout));
    return CheckTotalWeight(job, config.weights());
  }

  int64_t MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t updates) const override {
    return ProductMemoryBytes(job, state, updates, 0);
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::LoraFairConfig config, ReadConfig<proto::LoraFairConfig>(job));
    const std::vector<std::string> roles = AdapterRoles(options.global->layout());
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = config.weights(),
                                                                           .roles_trained = roles,
                                                                           .roles_sent = roles,
                                                                           .mixed_ranks = false}));
    return std::make_unique<LoraFair>(options, std::move(terms), config);
  }
};

WEFT_REGISTER_RULE(LoraFairRule);

}  // namespace
}  // namespace weft::aggregators
