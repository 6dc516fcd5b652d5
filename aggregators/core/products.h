#ifndef WEFT_AGGREGATORS_CORE_PRODUCTS_H_
#define WEFT_AGGREGATORS_CORE_PRODUCTS_H_

// What rules that work on the products B_k A_k of a round's clients share.

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "aggregators/core/factored.h"
#include "aggregators/core/kept.h"

namespace weft::aggregators {

// Where the values of one module go in the next state; they hold the last state's. Row-major.
struct ModuleTargets {
  std::span<float> a;       // [r, in], r as the job's adapter has it
  std::span<float> b;       // [out, r]
  std::span<float> base_a;  // [R, in], zeros, R as BaseRank said; empty when the rule changes no base
  std::span<float> base_b;  // [out, R]
};

// One module's factors of every client, in order of client id: start plus delta, rounded once, cut to the client's
// rank.
struct ModuleFactors {
  int64_t in = 0;
  int64_t out = 0;
  std::vector<ClientFactors> clients;
};

// Goes through the modules of a LoRA adapter, several at a time. Every other tensor gets the weighted mean of its
// deltas. The next state carries the last round's step of the base no longer, and this round's if the rule makes one.
class ProductAggregator : public KeptAggregator {
 public:
  using KeptAggregator::KeptAggregator;

 protected:
  // p_k, which sum to 1. The clients of `modules` have no weights yet. Default: by examples, bounded.
  virtual std::vector<double> Weigh(std::span<const KeptUpdate* const> updates,
                                    std::span<const ModuleFactors> modules) const;
  // Components of this round's step of the base for a module; 0: the rule changes no base.
  virtual int64_t BaseRank(const FactorStack& stack) const {
    (void)stack;
    return 0;
  }
  // Fills `targets` from at least one client, the weights being Weigh's. Called from several threads.
  virtual absl::Status Solve(FactorStack& stack, const ModuleTargets& targets) const = 0;
  // Last, once.
  virtual absl::Status Complete(Adapter* next) const {
    (void)next;
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<Adapter> Combine(std::span<const KeptUpdate* const> updates) final;
};

// Rule::MemoryBytes of such a rule, where the step of the base has `base_rank` components in each module: kept updates,
// decoded; the next state; the work on as many modules as there are CPUs.
int64_t ProductMemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t updates, int64_t base_rank);
// The largest rank of a module.
int64_t LargestRank(const Layout& layout);

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_PRODUCTS_H_
