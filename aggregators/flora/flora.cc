// The rule "flora": Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
// Adaptations", arXiv 2409.05976, equations 4 to 7: the factors of all clients are stacked, [B_1 .. B_K] [p_1 A_1; ..;
// p_K A_K] = sum_k p_k B_k A_k exactly, ranks may differ, and every client adds the stack to its base: W += s B A. Each
// round starts from fresh factors, A random and B zero, by a seed in the plan. The state holds those same values, so
// that they are what a delta is relative to. Round 1 starts from the job's own adapter, which may be a warm start. All
// other tensors are averaged as fedavg does.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapters/factors.h"
#include "adapters/forms/form.h"
#include "aggregators/core/form_check.h"
#include "aggregators/core/products.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/flora/flora.pb.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "flora";

// What `round` starts from.
uint64_t FreshSeed(uint64_t job_seed, int64_t round) {
  return MixSeed(MixSeed(job_seed, StreamId(kName)), static_cast<uint64_t>(round));
}

class Flora : public ProductAggregator {
 public:
  struct Fresh {
    std::unique_ptr<Form> form;
    uint64_t job_seed = 0;
    int64_t round = 1;
  };

  Flora(const CreateOptions& create, UpdateTerms terms, Fresh fresh)
      : ProductAggregator(create, std::move(terms)), fresh_(std::move(fresh)) {}

  void FillPlan(proto::Plan* plan) const override {
    ProductAggregator::FillPlan(plan);
    plan->set_base_residual(HasRole(state().layout(), "base_a"));
    plan->clear_reinitialise();
    if (fresh_.round == 1) return;
    proto::Reinitialise& reinitialise = *plan->mutable_reinitialise();
    reinitialise.set_seed(FreshSeed(fresh_.job_seed, fresh_.round));
    reinitialise.add_roles(kRoleLoraA);
    reinitialise.add_roles(kRoleLoraB);
  }

 private:
  int64_t BaseRank(const FactorStack& stack) const override { return stack.components(); }

  absl::Status Solve(FactorStack& stack, const ModuleTargets& targets) const override {
    const Factors stacked = stack.Stacked();
    stacked.a.CopyTo(targets.base_a);
    stacked.b.CopyTo(targets.base_b);
    return absl::OkStatus();
  }

  absl::Status Complete(Adapter* next) const override {
    return fresh_.form->Reinitialise(FreshSeed(fresh_.job_seed, fresh_.round + 1), next);
  }

  const Fresh fresh_;
};

class FloraRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  Facts facts() const override {
    return {.needs_single_updates = true,
            .needs_products = true,
            .changes_base = true,
            .takes_mixed_ranks = true,
            .rebases_factors = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FloraConfig config, ReadConfig<proto::FloraConfig>(job));
    WEFT_RETURN_IF_ERROR(CheckLoraFactors(kName, job, layout));
    WEFT_RETURN_IF_ERROR(CreateForm(job.adapter()).status());
    return CheckTotalWeight(job, config.weights());
  }

  int64_t MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t updates) const override {
    return ProductMemoryBytes(job, state, updates, updates * LargestRank(state));
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FloraConfig config, ReadConfig<proto::FloraConfig>(job));
    const std::vector<std::string> roles = AdapterRoles(options.global->layout());
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Form> form, CreateForm(job.adapter()));
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, {.rule = RuleText(kName, config),
                                                                           .weights = config.weights(),
                                                                           .roles_trained = roles,
                                                                           .roles_sent = roles,
                                                                           .mixed_ranks = true}));
    return std::make_unique<Flora>(options, std::move(terms), Flora::Fresh{std::move(form), job.seed(), options.round});
  }
};

WEFT_REGISTER_RULE(FloraRule);

}  // namespace
}  // namespace weft::aggregators
