#ifndef WEFT_TRAINING_COHORT_TRAINING_H_
#define WEFT_TRAINING_COHORT_TRAINING_H_

// What a group of members does in one pass after another: train their adapters on their rows, or count correct answers.
// Throws what LibTorch throws.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/plan.pb.h"
#include "training/base_model.h"
#include "training/forms/form.h"
#include "training/objective.h"
#include "training/trainer.h"

namespace weft {

// A job as laid out on a base.
struct PreparedJob {
  proto::TaskConfig task;
  std::shared_ptr<const Layout> layout;
  std::unique_ptr<TorchForm> form;
  std::vector<double> scales;  // of the form, by module: BaseDescription::linears
  // The base as the job sees it after base_round changes of it.
  std::vector<FrozenLinear> linears;
  int64_t base_round = 0;
  std::unique_ptr<Objective> objective;  // over `linears`, which stays where it is
};

// Training of one group. Plan and members are checked against base and job; `training`: each member's hyper-parameters,
// which agree in what the base computes in and keeps (SamePass).
struct TrainingGroup {
  std::vector<CohortMember> members;
  std::vector<proto::TrainingConfig> training;
};

// Whether members of these hyper-parameters can share passes.
bool SamePass(const proto::TrainingConfig& a, const proto::TrainingConfig& b);

// One result per member. CANCELLED: progress, which gets this group's steps, returned false.
absl::StatusOr<std::vector<absl::StatusOr<TrainResult>>> TrainGroup(const BaseModel& base, const PreparedJob& job,
                                                                    const proto::Plan& plan, const TrainingGroup& group,
                                                                    const ProgressFunction& progress);

// Rows that an evaluation of `rows_in_split` rows covers.
int64_t RowsToEvaluate(const proto::EvaluationPlan& plan, int64_t rows_in_split);

// One result per member; `progress` gets rows.
absl::StatusOr<std::vector<absl::StatusOr<proto::Evaluation>>> EvaluateMembers(const BaseModel& base,
                                                                               const PreparedJob& job,
                                                                               const proto::EvaluationPlan& plan,
                                                                               std::span<const CohortMember> members,
                                                                               const ProgressFunction& progress);

}  // namespace weft

#endif  // WEFT_TRAINING_COHORT_TRAINING_H_
