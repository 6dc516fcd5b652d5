// The rule "hetlora": Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models", arXiv
// 2401.06432, section 3.2: clients of rank r_k train the first r_k components, prune themselves (Plan.rank_pruning),
// and their factors, padded with zeros, are averaged apart with weights p_k proportional to |B_k A_k|_F. Here the norm
// is over all modules together, one weight a client, which also serves all other tensors; all norms 0 means all alike.
// A component that no client of the round has keeps its value.

#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "aggregators/core/form_check.h"
#include "aggregators/core/products.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/hetlora/hetlora.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "hetlora";

class HetLora : public ProductAggregator {
 public:
  HetLora(const CreateOptions& create, UpdateTerms terms, const proto::HetLoraConfig& config)
      : ProductAggregator(create, std::move(terms)), lambda_(config.lambda()), gamma_(config.gamma()) {}

  void FillPlan(proto::Plan* plan) const override {
    ProductAggregator::FillPlan(plan);
    plan->clear_rank_pruning();
    if (gamma_ == 1) return;
    plan->mutable_rank_pruning()->set_lambda(lambda_);
    plan->mutable_rank_pruning()->set_gamma(gamma_);
  }

 private:
  std::vector<double> Weigh(std::span<const KeptUpdate* const> updates,
                            std::span<const ModuleFactors> modules) const override {
    std::vector<double> norms(updates.size());
    for (size_t k = 0; k < norms.size(); ++k) {
      for (const ModuleFactors& module : modules) {
        ClientFactors alone = module.clients[k];
        alone.weight = 1;
        norms[k] += FactorStack::Create(module.in, module.out, {alone})->SquaredNorm();
      }
      norms[k] = std::sqrt(norms[k]);
    }
    const double total = std::accumulate(norms.begin(), norms.end(), 0.0);
    for (double& norm : norms) norm = total > 0 ? norm / total : 1 / static_cast<double>(norms.size());
    return norms;
  }

  absl::Status Solve(FactorStack& stack, const ModuleTargets& targets) const override {
    const Factors mean = stack.Mean();  // of as many components as the largest client has
    const auto rank = static_cast<int64_t>(targets.a.size()) / stack.in();
    mean.a.CopyTo(targets.a);
    for (int64_t row = 0; row < mean.b.rows; ++row) {
      for (int64_t c = 0; c < mean.b.columns; ++c) targets.b[row * rank + c] = static_cast<float>(mean.b(row, c));
    }
    return absl::OkStatus();
  }

  const double lambda_;
  const double gamma_;
};

class HetLoraRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  Facts facts() const override {
    return {.needs_single_updates = true,
            .needs_products = true,
            .takes_mixed_ranks = true,
            .keeps_client_state = true,
            .returns_single_update = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const override {
    WEFT_RETURN_IF_ERROR(ReadConfig<proto::HetLoraConfig>(job).status());
    return CheckLoraFactors(kName, job, layout);
  }

  int64_t MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t updates) const override {
    return ProductMemoryBytes(job, state, updates, 0);
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::HetLoraConfig config, ReadConfig<proto::HetLoraConfig>(job));
    const std::vector<std::string> roles = AdapterRoles(options.global->layout());
    proto::WeightsConfig alike;  // examples do not count
    alike.set_by("uniform");
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = alike,
                                                                           .roles_trained = roles,
                                                                           .roles_sent = roles,
                                                                           .mixed_ranks = true}));
    return std::make_unique<HetLora>(options, std::move(terms), config);
  }
};

WEFT_REGISTER_RULE(HetLoraRule);

}  // namespace
}  // namespace weft::aggregators
