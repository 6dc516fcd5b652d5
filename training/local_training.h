#ifndef WEFT_TRAINING_LOCAL_TRAINING_H_
#define WEFT_TRAINING_LOCAL_TRAINING_H_

// What one member of a cohort does: train its adapter on its rows, or count its correct answers. Throws what LibTorch
// throws.

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/plan.pb.h"
#include "training/base_model.h"
#include "training/forms/form.h"
#include "training/trainer.h"

namespace weft {

// A job as laid out on a base.
struct PreparedJob {
  std::shared_ptr<const Layout> layout;
  std::unique_ptr<TorchForm> form;
  double scale = 1;  // of the form
  int64_t num_labels = 0;
  // The base as the job sees it after base_round changes of it.
  std::vector<FrozenLinear> linears;
  int64_t base_round = 0;
};

// The plan has been checked against base and job. `progress` gets this member's own steps.
absl::StatusOr<TrainResult> TrainMember(const BaseModel& base, const PreparedJob& job, const proto::Plan& plan,
                                        const CohortMember& member, const ProgressFunction& progress);

// Rows that an evaluation of `rows_in_split` rows covers.
int64_t RowsToEvaluate(const proto::EvaluationPlan& plan, int64_t rows_in_split);

// As TrainMember; `progress` gets rows.
absl::StatusOr<proto::Evaluation> EvaluateMember(const BaseModel& base, const PreparedJob& job,
                                                 const proto::EvaluationPlan& plan, const CohortMember& member,
                                                 const ProgressFunction& progress);

}  // namespace weft

#endif  // WEFT_TRAINING_LOCAL_TRAINING_H_
