// The rule "norm_bound": Sun et al., "Can You Really Backdoor Federated Learning?", arXiv 1911.07963, section 4.2 (norm
// thresholding): the mean of delta_k * min(1, max_norm / |delta_k|), over all clients alike, norms over the whole
// delta. The rule inside makes the next state of it.
//
// A scaled delta is rounded to fp32 once more and then summed exactly, so the order does not matter and memory does not
// grow. Inside dp, whose own clip bounds each client, FinishFromMean bounds the mean, which no mean of bounded deltas
// exceeds: post-processing.

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "aggregators/core/linear.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/robust.h"
#include "aggregators/norm_bound/norm_bound.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "norm_bound";

// The exact mean of what it is given.
class Mean : public LinearAggregator {
 public:
  using LinearAggregator::LinearAggregator;

 private:
  absl::StatusOr<Adapter> Next(const Adapter& mean, int64_t) override { return mean.Clone(); }
};

// `delta` with a norm of at most `max_norm`, up to the rounding of its values.
Adapter Bounded(const Adapter& delta, double norm, double max_norm) {
  Adapter bounded = delta.Clone();
  if (norm <= max_norm) return bounded;
  for (float& x : bounded.values()) x = static_cast<float>(x * (max_norm / norm));
  return bounded;
}

class NormBound : public Aggregator {
 public:
  NormBound(const CreateOptions& create, RobustParts parts, double max_norm)
      : terms_(parts.terms),
        inner_(std::move(parts.inner)),
        max_norm_(max_norm),
        mean_(create, std::move(parts.terms)) {}

  void FillPlan(proto::Plan* plan) const override {
    inner_->FillPlan(plan);
    terms_.FillPlan(plan);
  }
  absl::Status Validate(const ClientUpdate& update) const override { return mean_.Validate(update); }
  using Aggregator::Accumulate;

  absl::Status Accumulate(std::span<const ClientUpdate> updates) override {
    for (const ClientUpdate& update : updates) WEFT_RETURN_IF_ERROR(Validate(update));
    // What is within the bound is folded as it came, in one pass; the rest one by one, to hold one scaled copy at a
    // time.
    std::vector<ClientUpdate> within;
    for (const ClientUpdate& update : updates) {
      const double norm = update.tensors.norm();
      if (norm <= max_norm_) {
        within.push_back(update);
        continue;
      }
      const Adapter scaled = Bounded(update.tensors.Decode(), norm, max_norm_);
      WEFT_RETURN_IF_ERROR(
          mean_.Accumulate({update.client_id, update.examples, EncodedUpdate::View(scaled), update.rank}));
    }
    return mean_.Accumulate(within);
  }

  absl::Status MergeWith(Aggregator&& other) override {
    auto* const part = dynamic_cast<NormBound*>(&other);
    if (part == nullptr) return ForeignPart("another rule", terms_.binding());
    return mean_.MergeWith(std::move(part->mean_));
  }

  absl::StatusOr<Adapter> Finish() && override {
    const int64_t updates = count();
    WEFT_ASSIGN_OR_RETURN(const Adapter mean, std::move(mean_).Finish());
    return std::move(*inner_).FinishFromMean(mean, updates);
  }
  absl::StatusOr<Adapter> FinishFromMean(const Adapter& mean, int64_t updates) && override {
    return std::move(*inner_).FinishFromMean(Bounded(mean, EncodedUpdate::View(mean).norm(), max_norm_), updates);
  }

  absl::StatusOr<std::string> Save() const override { return mean_.Save(); }
  absl::Status Restore(std::string_view state) override { return mean_.Restore(state); }
  int64_t count() const override { return mean_.count(); }

 private:
  const UpdateTerms terms_;
  std::unique_ptr<Aggregator> inner_;
  const double max_norm_;
  Mean mean_;
};

class NormBoundRule : public RobustRule {
 public:
  std::string_view name() const override { return kName; }

  Facts facts() const override {
    return {.linear = true, .works_under_central_dp = true, .finishes_from_mean = true, .wraps_rule = true};
  }

  // The sum, the mean, one scaled copy and its decoded original; what the rule inside holds.
  int64_t MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t) const override {
    return LinearAggregator::MemoryBytes(state) + (2 * state.size_bytes()) + InnerMemoryBytes(job, state);
  }

 private:
  absl::StatusOr<RobustConfig> Read(const proto::JobConfig& job) const override {
    WEFT_ASSIGN_OR_RETURN(proto::NormBoundConfig config, ReadConfig<proto::NormBoundConfig>(job));
    RobustConfig robust;
    robust.rule = config.rule();
    config.clear_rule();
    robust.text = RuleText(kName, config);
    return robust;
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Make(const proto::JobConfig& job, const CreateOptions& create,
                                                   RobustParts parts) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::NormBoundConfig config, ReadConfig<proto::NormBoundConfig>(job));
    return std::make_unique<NormBound>(create, std::move(parts), config.max_norm());
  }
};

WEFT_REGISTER_RULE(NormBoundRule);

}  // namespace
}  // namespace weft::aggregators
