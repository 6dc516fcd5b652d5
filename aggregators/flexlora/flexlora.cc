// The rule "flexlora": Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client
// Resources", arXiv 2402.11505, section 3.2: the mean product D = sum_k p_k B_k A_k of clients of any ranks, by
// singular value decomposition D = U S V^T cut to the adapter's rank: A = V^T and B = U S. Components lie in descending
// order, so the first r_k are D's best approximation of rank r_k, which is what a client of that rank starts from. All
// other tensors are averaged as fedavg does.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "aggregators/core/factored_svd.h"
#include "aggregators/core/form_check.h"
#include "aggregators/core/products.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/flexlora/flexlora.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "flexlora";

class FlexLora : public ProductAggregator {
 public:
  FlexLora(const CreateOptions& create, UpdateTerms terms, bool split)
      : ProductAggregator(create, std::move(terms)), split_(split) {}

 private:
  absl::Status Solve(FactorStack& stack, const ModuleTargets& targets) const override {
    const auto rank = static_cast<int64_t>(targets.a.size()) / stack.in();
    const Factors factors = TruncatedSvd(stack, {.rank = rank, .split = split_}).factors;
    factors.a.CopyTo(targets.a);
    factors.b.CopyTo(targets.b);
    return absl::OkStatus();
  }

  const bool split_;
};

class FlexLoraRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  Facts facts() const override {
    return {.needs_single_updates = true, .needs_products = true, .takes_mixed_ranks = true, .rebases_factors = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FlexLoraConfig config, ReadConfig<proto::FlexLoraConfig>(job));
    WEFT_RETURN_IF_ERROR(CheckLoraFactors(kName, job, layout));
    return CheckTotalWeight(job, config.weights());
  }

  int64_t MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t updates) const override {
    return ProductMemoryBytes(job, state, updates, 0);
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FlexLoraConfig config, ReadConfig<proto::FlexLoraConfig>(job));
    const std::vector<std::string> roles = AdapterRoles(options.global->layout());
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = config.weights(),
                                                                           .roles_trained = roles,
                                                                           .roles_sent = roles,
                                                                           .mixed_ranks = true}));
    return std::make_unique<FlexLora>(options, std::move(terms), config.split() == "sqrt");
  }
};

WEFT_REGISTER_RULE(FlexLoraRule);

}  // namespace
}  // namespace weft::aggregators
