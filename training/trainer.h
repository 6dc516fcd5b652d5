#ifndef WEFT_TRAINING_TRAINER_H_
#define WEFT_TRAINING_TRAINER_H_

// Torch-free interface of the trainer: the client daemon and the simulation see only this and training/data/shard.h.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "proto/plan.pb.h"
#include "training/data/shard.h"

namespace weft {

// One client of a cohort: the adapter it starts from and its rows. What is pointed to outlives the call.
struct CohortMember {
  std::string client_id;
  const Adapter* start = nullptr;
  const DataShard* shard = nullptr;
  // Of the plan, but per client: every member may have its own.
  uint64_t seed = 0;
  // Only the first `rank` components of each LoRA factor (rows of A, columns of B) take part: the others count as zero,
  // whatever `start` holds there, and are zero in the result. The scale stays the job's. 0: all.
  int64_t rank = 0;
  // SCAFFOLD's c - c_k (arXiv 1910.06378, equation 3): added to the gradient of the trained tensor of the same name,
  // before clipping. Any part of the job's tensors, full rank; a tensor that is not there gets nothing. nullptr: none.
  const Adapter* control = nullptr;
  // Hyper-parameters of its own in place of the plan's. nullptr: the plan's.
  const proto::TrainingConfig* training = nullptr;
};

// Components left of `rank` when HetLoRA prunes (arXiv 2401.06432, section 3.2): gamma * rank rounded down, at least 1.
inline int64_t PrunedRank(const proto::RankPruning& pruning, int64_t rank) {
  return std::max<int64_t>(1, static_cast<int64_t>(pruning.gamma() * static_cast<double>(rank)));
}

struct TrainResult {
  Adapter adapter;  // same layout as start
  proto::TrainMetrics metrics;
};

// Work done so far, over all members: called from the training thread after every step (rows when evaluating). Returns
// false to cancel.
using ProgressFunction = std::function<bool(int64_t done, int64_t total)>;

// Trains and evaluates adapters over one frozen base. The unit of work is a cohort of K members, whose rows go through
// the base together; one client is K=1. Calls of Train and Evaluate may run side by side, to the same bits where each
// has one thread; not beside other calls. Errors of a call: INVALID_ARGUMENT (plan or task does not fit the base),
// CANCELLED (progress returned false), RESOURCE_EXHAUSTED (memory, estimated before anything is computed; says what to
// lower). Errors of a member, which cost the others nothing: INVALID_ARGUMENT (layout, rank or shard does not fit;
// empty shard; label outside the set; token outside the vocabulary), OUT_OF_RANGE (loss turned NaN; says which step).
//
// A step is: gradient of the mean loss of its rows, plus the terms of plan (proximal, rank pruning) and member
// (control); clipped; then the optimizer's step, each role at its own learning rate. Losses are reported without the
// terms. With plain SGD and no clipping, start minus result is learning rate times the sum of the steps' gradients.
// What a member's adapter becomes depends on its own start, rows and seed alone, within float tolerance.
class Trainer {
 public:
  virtual ~Trainer() = default;

  // Lays out the job's adapter on this base; must be called before the other calls for that job. A job prepared again
  // keeps its changes of the base. INVALID_ARGUMENT as adapters/forms.
  virtual absl::StatusOr<std::shared_ptr<const Layout>> PrepareJob(const proto::JobOffer& job) = 0;

  // One result per member, in order.
  virtual absl::StatusOr<std::vector<absl::StatusOr<TrainResult>>> Train(const proto::Plan& plan,
                                                                         std::span<const CohortMember> cohort,
                                                                         const ProgressFunction& progress) = 0;

  // One result per member: job_id, round, client_id, and the exact counts over the planned rows of its shard.
  virtual absl::StatusOr<std::vector<absl::StatusOr<proto::Evaluation>>> Evaluate(const proto::EvaluationPlan& plan,
                                                                                  std::span<const CohortMember> cohort,
                                                                                  const ProgressFunction& progress) = 0;

  // Changes the base as this job sees it, for good: W += s * B A for each module that `step` names by a pair of tensors
  // "<module>.base_A.weight" [R, in] of role base_a and "<module>.base_B.weight" [out, R] of role base_b (tensors of
  // other roles are passed over); s is the scale of the job's form. Rounds go up by one from 1, so that whoever applies
  // the same steps holds the same bits. The weights of changed modules are copied for the job; other jobs see nothing
  // of it. FAILED_PRECONDITION: a round again or one left out, or a job not prepared; INVALID_ARGUMENT naming the
  // tensor: no such module, no partner, another shape, NaN, no pair at all. A refused step changes nothing.
  virtual absl::Status AddToBase(const std::string& job_id, int64_t round, const Adapter& step) = 0;
  // Round of the last step of AddToBase; 0: the job sees the base as it is.
  virtual int64_t base_round(const std::string& job_id) const = 0;
  // Takes all steps of AddToBase back, if there are any.
  virtual void ResetBase(const std::string& job_id) = 0;

  // Identity of the base held (adapters/base.h), and the device as shown to people: "cpu (1 thread)".
  virtual const std::string& base_hash() const = 0;
  virtual const std::string& device() const = 0;
};

struct TrainerOptions {
  std::string base;             // Hugging Face folder
  std::string device = "auto";  // auto, cpu, cuda
  int threads = 0;              // CPU threads; 0: all cores
  // Members of a cohort are trained in groups, in order, of about this many tokens a pass together; 0: as many as suit
  // the device. A group has one member at least.
  int64_t tokens_per_pass = 0;
  // Bytes that the trainer may take in all; 0: what the machine has to spare when it is asked.
  int64_t memory_bytes = 0;
  int calls = 1;  // of Train, side by side, at most: memory must do for all
};

// The LibTorch trainer (defined in training/torch_trainer.cc; only mains and tests link it). NOT_FOUND: missing base;
// FAILED_PRECONDITION: device cuda without CUDA.
absl::StatusOr<std::unique_ptr<Trainer>> CreateTorchTrainer(const TrainerOptions& options);

}  // namespace weft

#endif  // WEFT_TRAINING_TRAINER_H_
