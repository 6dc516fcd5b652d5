#ifndef WEFT_AGGREGATORS_CORE_AGGREGATOR_H_
#define WEFT_AGGREGATORS_CORE_AGGREGATOR_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "proto/job.pb.h"
#include "proto/plan.pb.h"

namespace weft::aggregators {

// What a rule is, for the checks before a job starts and for documents.
struct Facts {
  bool linear = false;                // touches updates only through a weighted sum
  bool needs_single_updates = false;  // needs (A_k, B_k) of each client apart
  bool works_under_secure_aggregation = false;
  bool works_under_central_dp = false;
  bool changes_base = false;
  // The update of a round's only client comes back: bit for bit where a value is 0 or of magnitude 2^-41 or more (-0.0
  // as 0.0), within 2^-65 where it is smaller.
  bool returns_single_update = false;
};

// One client's contribution, as seen by a rule. Refers to the tensors; copies nothing.
struct ClientUpdate {
  std::string_view client_id;
  uint64_t examples = 0;
  const Adapter& adapter;
};

// The rule that turns the updates of ONE round into the next adapter. Order of calls: Create; then any number of
// Validate, Accumulate, MergeWith and Save in any order; then Finish once. FillPlan any time. Not thread-safe: callers
// serialise, and shard by MergeWith.
//
// Laws (conformance.h runs them over every registered rule): any arrival order, any split into merged parts, a
// Save/Restore in the middle give the same bits; a refused update leaves no trace; NaN, Inf, another layout, an absurd
// weight are refused naming the tensor.
class Aggregator {
 public:
  virtual ~Aggregator() = default;

  // The client's half of the rule: sets roles_trained, roles_sent and the bound on examples of a plan whose job, round,
  // training and seed are set.
  virtual void FillPlan(proto::Plan* plan) const = 0;
  // INVALID_ARGUMENT when the update must not be folded. Changes nothing.
  virtual absl::Status Validate(const ClientUpdate& update) const = 0;
  // Validates and folds. On error nothing has changed.
  virtual absl::Status Accumulate(const ClientUpdate& update) = 0;
  // Folds the other's updates into this; the other is consumed. INVALID_ARGUMENT: another rule, layout or config.
  virtual absl::Status MergeWith(Aggregator&& other) = 0;
  // The next adapter. FAILED_PRECONDITION when nothing was accumulated.
  virtual absl::StatusOr<Adapter> Finish() && = 0;

  // State as bytes, for a restart in mid-round; Restore replaces all state. DATA_LOSS when the bytes are not of this
  // rule, layout and config.
  virtual absl::StatusOr<std::string> Save() const = 0;
  virtual absl::Status Restore(std::string_view state) = 0;

  // Updates folded so far.
  virtual int64_t count() const = 0;
};

struct CreateOptions {
  // The adapter the round starts from; must outlive the aggregator.
  const Adapter* global = nullptr;
  int64_t round = 1;
};

// A rule under its plain name: stateless, knows how to check a config and to start a round.
class Rule {
 public:
  virtual ~Rule() = default;
  virtual std::string_view name() const = 0;
  virtual Facts facts() const = 0;
  // INVALID_ARGUMENT with the reason when this job can't run under this rule and config (unknown key, value out of
  // range, form or layout that does not fit). Called at submit.
  virtual absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const = 0;
  // `job` has passed CheckJob.
  virtual absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                             const CreateOptions& options) const = 0;
};

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_AGGREGATOR_H_
