#ifndef WEFT_AGGREGATORS_CORE_KEPT_H_
#define WEFT_AGGREGATORS_CORE_KEPT_H_

#include <map>
#include <span>
#include <string>
#include <vector>

#include "aggregators/core/aggregator.h"
#include "aggregators/core/updates.h"

namespace weft::aggregators {

// An update as kept until the end of the round: encoded, as it was sent.
struct KeptUpdate {
  std::string client_id;
  uint64_t weight = 0;  // bounded, at least 1
  int64_t rank = 0;     // components of the factors; 0: all
  EncodedUpdate tensors;
};

// A rule that needs the updates apart: keeps them, in order of client id, and combines them at the end, so that the
// order of arrival cannot matter. Memory grows with the cohort: its encoded bytes, and what Combine needs.
class KeptAggregator : public Aggregator {
 public:
  KeptAggregator(const CreateOptions& create, UpdateTerms terms);

  void FillPlan(proto::Plan* plan) const override { terms_.FillPlan(plan); }
  // Also refuses a second update of one client.
  absl::Status Validate(const ClientUpdate& update) const final;
  using Aggregator::Accumulate;
  absl::Status Accumulate(std::span<const ClientUpdate> updates) final;
  absl::Status MergeWith(Aggregator&& other) final;
  absl::StatusOr<Adapter> Finish() && final;
  absl::StatusOr<std::string> Save() const final;
  absl::Status Restore(std::string_view state) final;
  int64_t count() const final { return static_cast<int64_t>(updates_.size()); }

 protected:
  // The next state from at least one update, in order of client id.
  virtual absl::StatusOr<Adapter> Combine(std::span<const KeptUpdate* const> updates) = 0;

  const Adapter& state() const { return state_; }
  const UpdateTerms& terms() const { return terms_; }
  int threads() const { return threads_; }

 private:
  absl::Status CheckNew(std::string_view client_id) const;

  const Adapter& state_;
  const UpdateTerms terms_;
  const int threads_;
  std::map<std::string, KeptUpdate, std::less<>> updates_;  // by client
};

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_KEPT_H_
