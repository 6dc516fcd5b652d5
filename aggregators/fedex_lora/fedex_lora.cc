// The rule "fedex_lora": Singhal et al., "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of
// Foundation Models", arXiv 2410.09432, equations 4 to 6: A = sum_k p_k A_k, B = sum_k p_k B_k, and what their product
// loses of the mean product D = sum_k p_k B_k A_k reaches the base of every client: W += s (D - B A). That residual is
// the covariance of the factors, of rank (K - 1) r at most, and travels in factored form as the state's step of the
// base. All other tensors are averaged as fedavg does.

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "aggregators/core/factored_svd.h"
#include "aggregators/core/form_check.h"
#include "aggregators/core/products.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/fedex_lora/fedex_lora.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "fedex_lora";

class FedExLora : public ProductAggregator {
 public:
  FedExLora(const CreateOptions& create, UpdateTerms terms, int64_t residual_rank)
      : ProductAggregator(create, std::move(terms)), residual_rank_(residual_rank) {}

  void FillPlan(proto::Plan* plan) const override {
    ProductAggregator::FillPlan(plan);
    plan->set_base_residual(HasRole(state().layout(), "base_a"));
  }

 private:
  // More than in or out components are never needed. A step has at least one, though it be zero: rounds have a step
  // each.
  int64_t BaseRank(const FactorStack& stack) const override {
    const auto others = static_cast<int64_t>(stack.clients().size()) - 1;
    int64_t rank = std::min({others * stack.max_rank(), stack.in(), stack.out()});
    if (residual_rank_ > 0) rank = std::min(rank, residual_rank_);
    return std::max<int64_t>(rank, 1);
  }

  absl::Status Solve(FactorStack& stack, const ModuleTargets& targets) const override {
    const Factors mean = stack.Mean();
    mean.a.CopyTo(targets.a);
    mean.b.CopyTo(targets.b);
    if (stack.clients().size() == 1) return absl::OkStatus();
    WEFT_ASSIGN_OR_RETURN(Factors residual, stack.Residual());
    if (residual.a.rows > BaseRank(stack)) {
      WEFT_ASSIGN_OR_RETURN(residual, Truncated(residual, BaseRank(stack)));
    }
    residual.a.CopyTo(targets.base_a);
    residual.b.CopyTo(targets.base_b);
    return absl::OkStatus();
  }

  // The best approximation of that rank.
  static absl::StatusOr<Factors> Truncated(const Factors& residual, int64_t rank) {
    std::vector<float> a(residual.a.values.size()), b(residual.b.values.size());
    residual.a.CopyTo(a);
    residual.b.CopyTo(b);
    WEFT_ASSIGN_OR_RETURN(FactorStack stack,
                          FactorStack::Create(residual.a.columns, residual.b.rows,
                                              {{.a = a, .b = b, .rank = residual.a.rows, .weight = 1}}));
    return TruncatedSvd(stack, {.rank = rank, .split = true}).factors;
  }

  const int64_t residual_rank_;
};

class FedExLoraRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  Facts facts() const override {
    return {.needs_single_updates = true, .needs_products = true, .changes_base = true, .returns_single_update = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedExLoraConfig config, ReadConfig<proto::FedExLoraConfig>(job));
    WEFT_RETURN_IF_ERROR(CheckLoraFactors(kName, job, layout));
    return CheckTotalWeight(job, config.weights());
  }

  int64_t MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t updates) const override {
    // No more of one module than its smaller side, which this bound passes over.
    int64_t rank = std::max<int64_t>(1, (updates - 1) * LargestRank(state));
    const absl::StatusOr<proto::FedExLoraConfig> config = ReadConfig<proto::FedExLoraConfig>(job);
    if (config.ok() && config->residual_rank() > 0) rank = std::min(rank, config->residual_rank());
    return ProductMemoryBytes(job, state, updates, rank);
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedExLoraConfig config, ReadConfig<proto::FedExLoraConfig>(job));
    const std::vector<std::string> roles = AdapterRoles(options.global->layout());
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = config.weights(),
                                                                           .roles_trained = roles,
                                                                           .roles_sent = roles,
                                                                           .mixed_ranks = false}));
    return std::make_unique<FedExLora>(options, std::move(terms), config.residual_rank());
  }
};

WEFT_REGISTER_RULE(FedExLoraRule);

}  // namespace
}  // namespace weft::aggregators
