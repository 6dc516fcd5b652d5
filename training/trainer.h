#ifndef WEFT_TRAINING_TRAINER_H_
#define WEFT_TRAINING_TRAINER_H_

// Torch-free interface of the trainer: the client daemon and the simulation see only this and training/data/shard.h.

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "proto/plan.pb.h"
#include "training/data/shard.h"

namespace weft {

// One client of a cohort: the adapter it starts from and its rows. Both outlive the call.
struct CohortMember {
  std::string client_id;
  const Adapter* start = nullptr;
  const DataShard* shard = nullptr;
  // Of the plan, but per client: every member may have its own.
  uint64_t seed = 0;
};

struct TrainResult {
  Adapter adapter;  // same layout as start
  proto::TrainMetrics metrics;
};

// Work done so far, over all members: called from the training thread after every step (rows when evaluating). Returns
// false to cancel.
using ProgressFunction = std::function<bool(int64_t done, int64_t total)>;

// Trains and evaluates adapters over one frozen base. The unit of work is a cohort of K members; one client is K=1. Not
// thread-safe: one call at a time. Errors: INVALID_ARGUMENT (plan, layout or shard does not fit the base; empty shard;
// label outside the set; token outside the vocabulary), CANCELLED (progress returned false), OUT_OF_RANGE (loss turned
// NaN; says which step), RESOURCE_EXHAUSTED (memory).
class Trainer {
 public:
  virtual ~Trainer() = default;

  // Lays out the job's adapter on this base; must be called before Train and Evaluate of that job. INVALID_ARGUMENT as
  // adapters/forms.
  virtual absl::StatusOr<std::shared_ptr<const Layout>> PrepareJob(const proto::JobOffer& job) = 0;

  // One result per member, in order. K members give the same adapters as K calls with one, within float tolerance.
  virtual absl::StatusOr<std::vector<TrainResult>> Train(const proto::Plan& plan, std::span<const CohortMember> cohort,
                                                         const ProgressFunction& progress) = 0;

  // One result per member: job_id, round, client_id, and the exact counts over the planned rows of its shard.
  virtual absl::StatusOr<std::vector<proto::Evaluation>> Evaluate(const proto::EvaluationPlan& plan,
                                                                  std::span<const CohortMember> cohort,
                                                                  const ProgressFunction& progress) = 0;

  // Identity of the base held (adapters/base.h), and the device as shown to people: "cpu (1 thread)".
  virtual const std::string& base_hash() const = 0;
  virtual const std::string& device() const = 0;
};

struct TrainerOptions {
  std::string base;             // Hugging Face folder
  std::string device = "auto";  // auto, cpu, cuda
  int threads = 0;              // CPU threads; 0: all cores
};

// The LibTorch trainer (defined in training/torch_trainer.cc; only mains and tests link it). NOT_FOUND: missing base;
// FAILED_PRECONDITION: device cuda without CUDA.
absl::StatusOr<std::unique_ptr<Trainer>> CreateTorchTrainer(const TrainerOptions& options);

}  // namespace weft

#endif  // WEFT_TRAINING_TRAINER_H_
