#ifndef WEFT_AGGREGATORS_CORE_ROBUST_H_
#define WEFT_AGGREGATORS_CORE_ROBUST_H_

// What robust rules share: each is a wrapper that keeps the deltas of a round and hands a centre of them, in place of
// their mean, to the rule inside. Every client counts alike, for its number of examples is its own word.

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "aggregators/core/aggregator.h"
#include "aggregators/core/core.pb.h"
#include "aggregators/core/inner.h"
#include "aggregators/core/kept.h"
#include "aggregators/core/updates.h"

namespace weft::aggregators {

// What a wrapper is made of: the rule inside, under way for the same round, and terms that ask for what it asks for.
struct RobustParts {
  UpdateTerms terms;
  std::unique_ptr<Aggregator> inner;
};

// A config that a robust rule has read from the job.
struct RobustConfig {
  std::string text;  // RuleText without the rule inside
  proto::InnerRuleConfig rule;
  // It treats coordinates apart from each other: so the factors A and B of one client are torn from each other.
  bool splits_pairs = false;
};

// Finds the rule inside and checks that the job fits it. INVALID_ARGUMENT: as FindInner and its CheckJob; weights in
// its config, which would not be heeded; with splits_pairs, a rule that sends both LoRA factors in one round.
absl::StatusOr<Inner> CheckInner(const proto::JobConfig& job, std::string_view wrapper, const RobustConfig& config,
                                 const Layout& layout);
// `job` has passed CheckInner.
absl::StatusOr<RobustParts> MakeParts(const proto::JobConfig& job, std::string_view wrapper, const RobustConfig& config,
                                      const CreateOptions& create);

class RobustAggregator : public KeptAggregator {
 public:
  RobustAggregator(const CreateOptions& create, RobustParts parts)
      : KeptAggregator(create, std::move(parts.terms)), inner_(std::move(parts.inner)) {}

  void FillPlan(proto::Plan* plan) const override;

 protected:
  // The centre of at least one delta, all of one layout, in order of client id.
  virtual absl::StatusOr<Adapter> Centre(std::span<const Adapter> deltas) = 0;

 private:
  absl::StatusOr<Adapter> Combine(std::span<const KeptUpdate* const> updates) final;

  std::unique_ptr<Aggregator> inner_;
};

// The rule of such an aggregator.
class RobustRule : public Rule {
 public:
  Facts facts() const override { return {.needs_single_updates = true, .wraps_rule = true}; }
  absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const final;
  absl::StatusOr<Adapter> InitialState(const proto::JobConfig& job, Adapter initial) const final;
  std::optional<PrivacySpent> Spent(const proto::JobConfig& job, int64_t rounds) const final;
  // The kept updates, decoded; the centre; what the rule inside holds.
  int64_t MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t updates) const override;
  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& create) const final;

 protected:
  int64_t InnerMemoryBytes(const proto::JobConfig& job, const Layout& state) const;

 private:
  virtual absl::StatusOr<RobustConfig> Read(const proto::JobConfig& job) const = 0;
  virtual absl::Status CheckMore(const proto::JobConfig&, const Layout&) const { return absl::OkStatus(); }
  // `job` has passed CheckJob.
  virtual absl::StatusOr<std::unique_ptr<Aggregator>> Make(const proto::JobConfig& job, const CreateOptions& create,
                                                           RobustParts parts) const = 0;
};

// centre[i] = centre_of(the values of element i in all deltas, which it may reorder), on up to `threads` threads.
Adapter CoordinateWise(std::span<const Adapter> deltas, int threads,
                       const std::function<float(std::span<float> values)>& centre_of);
// The median of at least one value: of an even number, the mean of the two in the middle.
float MedianOf(std::span<float> values);

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_ROBUST_H_
