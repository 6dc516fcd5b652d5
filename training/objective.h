#ifndef WEFT_TRAINING_OBJECTIVE_H_
#define WEFT_TRAINING_OBJECTIVE_H_

// What a task makes of a base's last hidden states: its head, its loss, its counts.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/job.pb.h"
#include "proto/plan.pb.h"
#include "training/base_model.h"
#include "training/forms/form.h"
#include "training/models/batch.h"
#include "training/models/pass.h"

namespace weft {

// Of one member in one pass.
struct MemberLoss {
  double loss_sum = 0;  // cross-entropy over what is counted, in nats, without label smoothing's share of the weights
  int64_t counted = 0;  // rows; of causal_lm tokens; of sentence_embedding pairs
  int64_t correct = 0;
  std::vector<proto::ClassCounts> classes;  // of the classifications, when evaluating
};

class Objective {
 public:
  struct Options {
    const BaseModel* base = nullptr;
    const proto::TaskConfig* task = nullptr;
    const std::vector<FrozenLinear>* linears = nullptr;  // the base's, or a job's in their place
  };
  // Must be outlived by what options name. INVALID_ARGUMENT: a task that the base does not do, a checkpoint without
  // what it needs.
  static absl::StatusOr<std::unique_ptr<Objective>> Create(const Options& options);
  virtual ~Objective() = default;

  TaskDescription::Read read() const { return read_; }

  // Takes `hidden`, what the model gives for `batch`, through heads of `members` (which are attached in `pass`) and
  // back: gradients of member k's loss over its `counted` times weights[k] are added up. INVALID_ARGUMENT naming the
  // tensor: a head of another shape, no head in the adapter nor in the base.
  virtual absl::StatusOr<std::vector<MemberLoss>> Learn(const Batch& batch, const at::Tensor& hidden,
                                                        const std::vector<MemberTensors>& members,
                                                        const std::vector<double>& weights, double label_smoothing,
                                                        Pass& pass) const = 0;
  // The same without gradients.
  virtual absl::StatusOr<std::vector<MemberLoss>> Evaluate(const Batch& batch, const at::Tensor& hidden,
                                                           const std::vector<MemberTensors>& members,
                                                           Pass& pass) const = 0;
  // What a user of the model sees for what is read: logits [rows, labels], of causal_lm [places, vocabulary];
  // embeddings [texts, hidden]. fp32, differentiable.
  virtual absl::StatusOr<at::Tensor> Outputs(const Batch& batch, const at::Tensor& hidden,
                                             const std::vector<MemberTensors>& members, Pass& pass) const = 0;
  // What the loss of `rows` of a shard is a mean over: rows, or tokens to learn among the first `max_length` of each.
  virtual int64_t Counted(const DataShard& shard, const std::vector<int64_t>& rows, int64_t max_length,
                          int64_t prompt_tokens) const {
    (void)shard, (void)max_length, (void)prompt_tokens;
    return static_cast<int64_t>(rows.size());
  }

 protected:
  explicit Objective(TaskDescription::Read read) : read_(read) {}

 private:
  const TaskDescription::Read read_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_OBJECTIVE_H_
