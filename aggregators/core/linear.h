#ifndef WEFT_AGGREGATORS_CORE_LINEAR_H_
#define WEFT_AGGREGATORS_CORE_LINEAR_H_

#include <memory>
#include <span>
#include <string>

#include "aggregators/core/aggregator.h"
#include "aggregators/core/exact_sum.h"
#include "aggregators/core/updates.h"

namespace weft::aggregators {

// A rule that touches updates only through the weighted mean of their deltas: sums exactly, in 16 bytes per element
// however many clients there are. By itself it adds the mean to the state; a rule that makes something else of it
// derives.
class LinearAggregator : public Aggregator {
 public:
  LinearAggregator(const CreateOptions& create, UpdateTerms terms);

  void FillPlan(proto::Plan* plan) const override { terms_.FillPlan(plan); }
  absl::Status Validate(const ClientUpdate& update) const final;
  using Aggregator::Accumulate;
  absl::Status Accumulate(std::span<const ClientUpdate> updates) final;
  absl::Status MergeWith(Aggregator&& other) final;
  absl::StatusOr<Adapter> Finish() && final;
  absl::StatusOr<Adapter> FinishFromMean(const Adapter& mean, int64_t updates) && final { return Next(mean, updates); }
  absl::StatusOr<std::string> Save() const final;
  absl::Status Restore(std::string_view state) final;
  int64_t count() const final { return sum_.updates(); }

  // Rule::MemoryBytes of such a rule: the sum and the next state.
  static int64_t MemoryBytes(const Layout& state) { return state.num_elements() * (16 + 4 + 4); }

 protected:
  // The next state, where `mean` is the mean delta, of the sent layout. Default: it is added to the state.
  virtual absl::StatusOr<Adapter> Next(const Adapter& mean, int64_t updates);

  const Adapter& state() const { return state_; }
  const UpdateTerms& terms() const { return terms_; }
  int threads() const { return threads_; }

 private:
  const Adapter& state_;
  const UpdateTerms terms_;
  const int threads_;
  ExactSum sum_;
};

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_LINEAR_H_
