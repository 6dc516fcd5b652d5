#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "training/cohort_tensors.h"
#include "training/cohort_training.h"
#include "training/data/schedule.h"

namespace weft {
namespace {

// Rows of one forward pass without gradients: enough to fill the machine, few enough for little memory.
constexpr int64_t kEvaluationRows = 64;

void Add(const MemberLoss& loss, bool of_tokens, int64_t rows, proto::Evaluation* sum) {
  sum->set_examples(sum->examples() + rows);
  sum->set_correct(sum->correct() + loss.correct);
  sum->set_loss_sum(sum->loss_sum() + loss.loss_sum);
  if (of_tokens) sum->set_tokens(sum->tokens() + loss.counted);
  for (size_t c = 0; c < loss.classes.size(); ++c) {
    proto::ClassCounts* counts =
        c < static_cast<size_t>(sum->classes_size()) ? sum->mutable_classes(static_cast<int>(c)) : sum->add_classes();
    counts->set_correct(counts->correct() + loss.classes[c].correct());
    counts->set_predicted(counts->predicted() + loss.classes[c].predicted());
    counts->set_actual(counts->actual() + loss.classes[c].actual());
  }
}

// Evaluates members one stretch of rows after another; a stretch holds rows of several members where they have few.
class Evaluating {
 public:
  Evaluating(const BaseModel& base, const PreparedJob& job, const proto::EvaluationPlan& plan,
             std::span<const CohortMember> members)
      : base_(base), job_(job), plan_(plan), members_(members) {
    for (const CohortMember& member : members) {
      proto::Evaluation& result = results_.emplace_back();
      result.set_job_id(plan.job_id());
      result.set_round(plan.round());
      result.set_client_id(member.client_id);
      wanted_.push_back(RowsToEvaluate(plan, member.shard->rows()));
      total_ += wanted_.back();
    }
    failed_.resize(members.size());
  }

  absl::Status Run(const ProgressFunction& progress) {
    size_t first = 0;
    int64_t row = 0;  // of the first member
    while (first < members_.size()) {
      std::vector<size_t> who;
      std::vector<MemberRows> rows;
      int64_t count = 0;
      for (; first < members_.size() && count < kEvaluationRows;) {
        MemberRows own{.shard = members_[first].shard, .rows = {}, .max_length = plan_.max_length()};
        for (; row < wanted_[first] && count < kEvaluationRows; ++row, ++count) {
          own.rows.push_back(EvenlySpacedRow(row, wanted_[first], own.shard->rows()));
        }
        who.push_back(first);
        rows.push_back(std::move(own));
        if (row < wanted_[first]) break;
        ++first;
        row = 0;
      }
      WEFT_RETURN_IF_ERROR(RunStretch(who, rows));
      done_ += count;
      if (!progress(done_, total_)) {
        return absl::CancelledError(absl::StrCat("cancelled after ", done_, " of ", total_, " rows"));
      }
    }
    return absl::OkStatus();
  }

  std::vector<absl::StatusOr<proto::Evaluation>> Results() && {
    std::vector<absl::StatusOr<proto::Evaluation>> results;
    for (size_t k = 0; k < results_.size(); ++k) {
      if (failed_[k].ok()) {
        results.emplace_back(std::move(results_[k]));
      } else {
        results.emplace_back(absl::Status(failed_[k].code(),
                                          absl::StrCat("client ", members_[k].client_id, ": ", failed_[k].message())));
      }
    }
    return results;
  }

 private:
  absl::Status RunStretch(const std::vector<size_t>& who, std::vector<MemberRows>& rows) {
    std::vector<CohortMember> members;
    for (const size_t k : who) members.push_back(members_[k]);
    const CohortTensors tensors(members, /*roles_trained=*/{}, {}, base_.device());
    WEFT_ASSIGN_OR_RETURN(const AttachedForm form, job_.form->Attach(base_.description(), tensors.members()));
    int64_t member = 0;
    const BatchOptions options{.num_labels = job_.task.labels_size(),
                               .prompt_tokens = job_.form->prompt_tokens(),
                               .read = job_.objective->read()};
    absl::StatusOr<Batch> batch = base_.model().MakeBatch(rows, options, &member);
    while (!batch.ok()) {
      failed_[who[member]] = batch.status();
      rows[member].rows.clear();
      batch = base_.model().MakeBatch(rows, options, &member);
    }
    if (batch->rows.end(batch->rows.members() - 1) == 0) return absl::OkStatus();
    const at::ScalarType dtype = plan_.compute() == "bf16" ? at::kBFloat16 : at::kFloat;
    Pass pass({.form = &form, .random = nullptr, .dtype = dtype, .checkpointing = false});
    const at::Tensor hidden = base_.model().Forward(*batch, job_.linears, pass);
    WEFT_ASSIGN_OR_RETURN(const std::vector<MemberLoss> losses,
                          job_.objective->Evaluate(*batch, hidden, tensors.members(), pass));
    for (size_t k = 0; k < who.size(); ++k) {
      Add(losses[k], job_.task.type() == "causal_lm", static_cast<int64_t>(rows[k].rows.size()), &results_[who[k]]);
    }
    return absl::OkStatus();
  }

  const BaseModel& base_;
  const PreparedJob& job_;
  const proto::EvaluationPlan& plan_;
  const std::span<const CohortMember> members_;
  std::vector<int64_t> wanted_;
  int64_t done_ = 0, total_ = 0;
  std::vector<proto::Evaluation> results_;
  std::vector<absl::Status> failed_;
};

}  // namespace

int64_t RowsToEvaluate(const proto::EvaluationPlan& plan, int64_t rows_in_split) {
  return plan.rows() == 0 ? rows_in_split : std::min(plan.rows(), rows_in_split);
}

absl::StatusOr<std::vector<absl::StatusOr<proto::Evaluation>>> EvaluateMembers(const BaseModel& base,
                                                                               const PreparedJob& job,
                                                                               const proto::EvaluationPlan& plan,
                                                                               std::span<const CohortMember> members,
                                                                               const ProgressFunction& progress) {
  const c10::InferenceMode no_gradients;
  Evaluating evaluating(base, job, plan, members);
  WEFT_RETURN_IF_ERROR(evaluating.Run(progress));
  return std::move(evaluating).Results();
}

}  // namespace weft
