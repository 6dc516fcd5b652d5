#ifndef WEFT_AGGREGATORS_CORE_AGGREGATOR_H_
#define WEFT_AGGREGATORS_CORE_AGGREGATOR_H_

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/encoding.h"
#include "proto/job.pb.h"
#include "proto/plan.pb.h"

namespace weft::aggregators {

// What a rule is, for the checks before a job starts and for documents.
struct Facts {
  bool linear = false;                // touches updates only through a weighted sum; memory does not grow with clients
  bool needs_single_updates = false;  // keeps the update of each client until Finish
  bool needs_products = false;        // works on B_k A_k, so on LoRA adapters only
  bool works_under_secure_aggregation = false;
  bool works_under_central_dp = false;  // may stand inside dp: Finish is post-processing of a mean of deltas
  bool finishes_from_mean = false;      // may stand inside a wrapper: FinishFromMean
  bool changes_base = false;            // its state carries steps of the base (roles base_a, base_b)
  bool takes_mixed_ranks = false;       // clients may send fewer components of the LoRA factors
  bool keeps_client_state = false;      // clients keep tensors between rounds
  bool rebases_factors = false;         // turns the factors: what was kept per component fits the next state no longer
  bool finishes_empty = false;          // a round without updates has a next state
  bool wraps_rule = false;              // takes `rule` of another rule in its config
  // The update of a round's only client comes back: next = start + delta, rounded once, bit for bit.
  bool returns_single_update = false;
};

// One client's contribution, as seen by a rule. Refers to the tensors; copies nothing.
struct ClientUpdate {
  std::string_view client_id;
  uint64_t examples = 0;
  // Trained minus broadcast values of the roles in Plan.roles_sent, in layout order (adapters/factors.h: SentLayout).
  // Under role control.*: c_k' - c_k.
  const EncodedUpdate& tensors;
  // Components of each LoRA factor it holds; 0: all.
  int64_t rank = 0;
};

// The rule that turns the updates of ONE round into the next state. Order of calls: Create; then any number of
// Validate, Accumulate, MergeWith and Save in any order; then Finish once. FillPlan any time. Not thread-safe: callers
// serialise, and shard by MergeWith.
//
// The state is the job's adapter, followed by the rule's own tensors if it has any: roles that begin with "server."
// stay with the coordinator; all others are broadcast.
//
// Laws (conformance.h runs them over every registered rule): any arrival order, any grouping, any split into merged
// parts, a Save/Restore in the middle give the same bits; a refused update leaves no trace; NaN, Inf, another layout,
// an absurd weight are refused naming the tensor.
class Aggregator {
 public:
  virtual ~Aggregator() = default;

  // The client's half of the rule: sets roles_trained, roles_sent, the bound on examples and the rule's primitives in a
  // plan whose job, round, training, encoding and seed are set.
  virtual void FillPlan(proto::Plan* plan) const = 0;
  // INVALID_ARGUMENT when the update must not be folded. Changes nothing.
  virtual absl::Status Validate(const ClientUpdate& update) const = 0;
  // Validates all, then folds all in one pass: groups cost less memory traffic than single updates. On error nothing
  // has changed.
  virtual absl::Status Accumulate(std::span<const ClientUpdate> updates) = 0;
  absl::Status Accumulate(const ClientUpdate& update) { return Accumulate(std::span(&update, 1)); }
  // Folds the other's updates into this; the other is consumed. INVALID_ARGUMENT: another rule, layout or config.
  virtual absl::Status MergeWith(Aggregator&& other) = 0;
  // The next state. FAILED_PRECONDITION when nothing was accumulated, unless Facts::finishes_empty.
  virtual absl::StatusOr<Adapter> Finish() && = 0;
  // The next state when `mean`, a delta of the sent layout, stands for the round's `updates` updates: what a wrapper
  // calls in place of Accumulate and Finish. UNIMPLEMENTED unless Facts::finishes_from_mean.
  virtual absl::StatusOr<Adapter> FinishFromMean(const Adapter& mean, int64_t updates) && {
    (void)mean, (void)updates;
    return absl::UnimplementedError("this rule does not finish from a mean");
  }

  // State as bytes, for a restart in mid-round or to ship a partial sum; Restore replaces all state. DATA_LOSS when the
  // bytes are not of this rule, layout and config.
  virtual absl::StatusOr<std::string> Save() const = 0;
  virtual absl::Status Restore(std::string_view state) = 0;

  // Updates folded so far.
  virtual int64_t count() const = 0;
};

struct CreateOptions {
  // The state the round starts from; must outlive the aggregator.
  const Adapter* global = nullptr;
  int64_t round = 1;
  // CPU threads of a fold and of Finish. The bits do not depend on it.
  int threads = 1;
};

// What central differential privacy has cost after some rounds.
struct PrivacySpent {
  double epsilon = 0;
  double epsilon_budget = 0;  // the job stops before a round that would pass it
  double delta = 0;
  double noise_multiplier = 0;
  double sampling_rate = 1;  // as accounted; 1: no amplification
};

// A rule under its plain name: stateless, knows how to check a config and to start a round.
class Rule {
 public:
  virtual ~Rule() = default;
  virtual std::string_view name() const = 0;
  virtual Facts facts() const = 0;
  // INVALID_ARGUMENT with the reason and the nearest job that works when this job can't run under this rule and config
  // (unknown key, value out of range, form, layout or inner rule that does not fit). Called at submit. `layout` is of
  // the job's adapter.
  virtual absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const = 0;
  // The state before round 1. `job` has passed CheckJob.
  virtual absl::StatusOr<Adapter> InitialState(const proto::JobConfig& job, Adapter initial) const {
    (void)job;
    return initial;
  }
  // What `rounds` committed rounds of this job spend; nullopt: no differential privacy. A pure function, so that a
  // restart can't forget what was spent. `job` has passed CheckJob.
  virtual std::optional<PrivacySpent> Spent(const proto::JobConfig& job, int64_t rounds) const {
    (void)job, (void)rounds;
    return std::nullopt;
  }
  // Bytes that a round of `updates` updates holds at most, Finish included, beside the state itself.
  virtual int64_t MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t updates) const = 0;
  // `job` has passed CheckJob.
  virtual absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                             const CreateOptions& options) const = 0;
};

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_AGGREGATOR_H_
