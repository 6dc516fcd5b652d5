#include "training/cohort_training.h"

#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "google/protobuf/util/message_differencer.h"
#include "training/cohort_tensors.h"
#include "training/data/schedule.h"
#include "training/gradient_terms.h"
#include "training/learning_rate.h"
#include "training/optimizer.h"

namespace weft {
namespace {

using google::protobuf::util::MessageDifferencer;

// Steps of one round that a random choice can tell apart from passes of one step.
constexpr int64_t kMostPassesOfAStep = int64_t{1} << 16;

at::ScalarType DtypeOf(const std::string& compute) { return compute == "bf16" ? at::kBFloat16 : at::kFloat; }

// Sums the loss over what is counted, all of it and that of the last tenth of the steps.
class LossMeter {
 public:
  explicit LossMeter(int64_t steps) : final_from_(steps - std::max<int64_t>(1, steps / 10)) {}

  void Add(int64_t step, const MemberLoss& loss) {
    sum_ += loss.loss_sum;
    counted_ += loss.counted;
    if (step < final_from_) return;
    final_sum_ += loss.loss_sum;
    final_counted_ += loss.counted;
  }
  double mean() const { return sum_ / static_cast<double>(counted_); }
  double final_mean() const { return final_sum_ / static_cast<double>(final_counted_); }

 private:
  const int64_t final_from_;
  double sum_ = 0, final_sum_ = 0;
  int64_t counted_ = 0, final_counted_ = 0;
};

absl::Status Named(const CohortMember& member, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("client ", member.client_id, ": ", status.message()));
}

// One member on its way through a round.
struct Trainee {
  Trainee(const CohortMember& member, const proto::TrainingConfig& training)
      : member(&member),
        training(&training),
        steps(StepsFor(training, member.shard->rows())),
        schedule(member.shard->rows(), training.batch_size(), member.seed, training.shuffle()),
        meter(steps) {}

  bool ActiveAt(int64_t step) const { return status.ok() && step < steps; }

  const CohortMember* member;
  const proto::TrainingConfig* training;
  int64_t steps;
  BatchSchedule schedule;
  LossMeter meter;
  std::vector<std::vector<int64_t>> batches;  // of the step under way
  double weight = 0;                          // of what the step's loss counts
  int64_t tokens = 0;
  absl::Status status;
  absl::Time end;
};

absl::Status Diverged(int64_t step, const proto::TrainingConfig& training) {
  return absl::OutOfRangeError(absl::StrCat("the loss is not a finite number at step ", step + 1,
                                            "; lower training.learning_rate (", training.learning_rate(),
                                            ") or set training.clip_grad_norm (", training.clip_grad_norm(), ")"));
}

// An optimizer over the members of a part that take the same steps: [first, last).
struct OptimizedRun {
  std::unique_ptr<Optimizer> optimizer;
  int64_t first;
  at::Tensor values, gradients;
};

class GroupTraining {
 public:
  GroupTraining(const BaseModel& base, const PreparedJob& job, const proto::Plan& plan, const TrainingGroup& group)
      : base_(base),
        job_(job),
        plan_(plan),
        common_(group.training.front()),
        tensors_(group.members, {plan.roles_trained().begin(), plan.roles_trained().end()},
                 {plan.learning_rate_scale().begin(), plan.learning_rate_scale().end()}, base.device()) {
    for (size_t k = 0; k < group.members.size(); ++k) {
      trainees_.emplace_back(group.members[k], group.training[k]);
      terms_.emplace_back(plan, group.members[k], static_cast<int64_t>(k), tensors_);
      random_.seeds.push_back(MixSeed(group.members[k].seed, StreamId("dropout")));
    }
  }

  absl::Status Run(const ProgressFunction& progress) {
    WEFT_ASSIGN_OR_RETURN(const AttachedForm form, job_.form->Attach(base_.description(), tensors_.members()));
    WEFT_RETURN_IF_ERROR(MakeOptimizers());
    int64_t done = 0, total = 0, most = 0;
    for (const Trainee& trainee : trainees_) {
      total += trainee.steps;
      most = std::max(most, trainee.steps);
    }
    for (int64_t step = 0; step < most; ++step) {
      const int64_t passes = BeginStep(step);
      if (passes == 0) break;
      for (int64_t pass = 0; pass < passes; ++pass) WEFT_RETURN_IF_ERROR(RunPass(form, step, pass));
      for (const Trainee& trainee : trainees_) done += trainee.ActiveAt(step) ? 1 : 0;
      EndStep(step);
      if (!progress(done, total)) {
        return absl::CancelledError(absl::StrCat("cancelled after ", done, " of ", total, " steps"));
      }
    }
    return absl::OkStatus();
  }

  std::vector<absl::StatusOr<TrainResult>> Results(absl::Time start) const {
    std::vector<absl::StatusOr<TrainResult>> results;
    for (size_t k = 0; k < trainees_.size(); ++k) {
      const Trainee& trainee = trainees_[k];
      absl::Status status = trainee.status;
      TrainResult result{.adapter = tensors_.ToAdapter(static_cast<int64_t>(k)), .metrics = {}};
      if (status.ok() && !CheckFinite(result.adapter).ok()) status = Diverged(trainee.steps - 1, *trainee.training);
      if (!status.ok()) {
        results.emplace_back(Named(*trainee.member, status));
        continue;
      }
      result.metrics.set_steps(trainee.steps);
      result.metrics.set_tokens(trainee.tokens);
      result.metrics.set_loss(trainee.meter.mean());
      result.metrics.set_final_loss(trainee.meter.final_mean());
      result.metrics.set_seconds(absl::ToDoubleSeconds(trainee.end - start));
      results.emplace_back(std::move(result));
    }
    return results;
  }

 private:
  absl::Status MakeOptimizers() {
    for (const CohortTensors::Part& part : tensors_.parts()) {
      for (size_t first = 0, next = 0; first < trainees_.size(); first = next) {
        const Trainee& like = trainees_[first];
        while (next < trainees_.size() && trainees_[next].steps == like.steps &&
               MessageDifferencer::Equals(*trainees_[next].training, *like.training)) {
          ++next;
        }
        proto::TrainingConfig config = *like.training;
        config.set_learning_rate(config.learning_rate() * part.learning_rate_scale);
        const int64_t begin = part.offsets[first], end = part.offsets[next];
        OptimizedRun run{.optimizer = nullptr,
                         .first = static_cast<int64_t>(first),
                         .values = part.values.slice(0, begin, end),
                         .gradients = part.gradients.slice(0, begin, end)};
        WEFT_ASSIGN_OR_RETURN(run.optimizer, CreateOptimizer(config));
        runs_.push_back(std::move(run));
      }
    }
    return absl::OkStatus();
  }

  // Draws each active member's rows of the step. Returns the passes it takes; 0: nobody is active.
  int64_t BeginStep(int64_t step) {
    int64_t passes = 0;
    for (Trainee& trainee : trainees_) {
      trainee.batches.clear();
      if (!trainee.ActiveAt(step)) continue;
      int64_t counted = 0;
      for (int64_t i = 0; i < trainee.training->accumulation(); ++i) {
        trainee.batches.push_back(trainee.schedule.Next());
        counted += job_.objective->Counted(*trainee.member->shard, trainee.batches.back(),
                                           trainee.training->max_length(), job_.form->prompt_tokens());
      }
      trainee.weight = 1 / static_cast<double>(std::max<int64_t>(counted, 1));
      passes = std::max(passes, trainee.training->accumulation());
    }
    return passes;
  }

  // A batch of the members that have rows in this pass; members whose rows are refused drop out.
  absl::StatusOr<Batch> MakeBatch(int64_t pass) {
    while (true) {
      std::vector<MemberRows> rows;
      for (const Trainee& trainee : trainees_) {
        const bool has = trainee.status.ok() && pass < static_cast<int64_t>(trainee.batches.size());
        rows.push_back({.shard = trainee.member->shard,
                        .rows = has ? trainee.batches[pass] : std::vector<int64_t>(),
                        .max_length = trainee.training->max_length()});
      }
      int64_t member = 0;
      absl::StatusOr<Batch> batch = base_.model().MakeBatch(rows,
                                                            {.num_labels = job_.task.labels_size(),
                                                             .prompt_tokens = job_.form->prompt_tokens(),
                                                             .read = job_.objective->read()},
                                                            &member);
      if (batch.ok()) return batch;
      trainees_[member].status = batch.status();
    }
  }

  absl::Status RunPass(const AttachedForm& form, int64_t step, int64_t pass_of_step) {
    WEFT_ASSIGN_OR_RETURN(const Batch batch, MakeBatch(pass_of_step));
    if (batch.rows.end(batch.rows.members() - 1) == 0) return absl::OkStatus();
    random_.step = step * kMostPassesOfAStep + pass_of_step;
    Pass pass({.form = &form,
               .random = &random_,
               .dtype = DtypeOf(common_.compute()),
               .checkpointing = common_.checkpointing()});
    const at::Tensor hidden = base_.model().Forward(batch, job_.linears, pass);
    std::vector<double> weights;
    for (const Trainee& trainee : trainees_) weights.push_back(trainee.weight);
    WEFT_ASSIGN_OR_RETURN(
        const std::vector<MemberLoss> losses,
        job_.objective->Learn(batch, hidden, tensors_.members(), weights, common_.label_smoothing(), pass));
    for (size_t k = 0; k < trainees_.size(); ++k) {
      Trainee& trainee = trainees_[k];
      if (losses[k].counted == 0) continue;
      if (!std::isfinite(losses[k].loss_sum) && trainee.status.ok()) trainee.status = Diverged(step, *trainee.training);
      trainee.meter.Add(step, losses[k]);
      trainee.tokens += batch.member_tokens[k];
    }
    return absl::OkStatus();
  }

  // The step that the gradients ask for; leaves them zero for the next.
  void EndStep(int64_t step) {
    const at::AutoDispatchBelowAutograd plain;  // nothing here is recorded: skip what would look
    for (size_t k = 0; k < trainees_.size(); ++k) {
      Trainee& trainee = trainees_[k];
      std::vector<at::Tensor> gradients;
      for (const CohortTensors::Part& part : tensors_.parts()) {
        gradients.push_back(part.GradientsOf(static_cast<int64_t>(k)));
      }
      if (!trainee.status.ok()) {  // what it does from here on interests nobody, but must not be NaN for ever
        for (at::Tensor& gradient : gradients) gradient.zero_();
        continue;
      }
      if (step >= trainee.steps) continue;
      terms_[k].Add();
      ClipGradient(trainee.training->clip_grad_norm(), gradients);
      if (step + 1 == trainee.steps) trainee.end = absl::Now();
    }
    for (OptimizedRun& run : runs_) {
      const Trainee& like = trainees_[run.first];
      if (step >= like.steps) continue;
      run.optimizer->Step(run.values, run.gradients, LearningRateFactor(*like.training, step, like.steps));
    }
    for (const CohortTensors::Part& part : tensors_.parts()) at::Tensor(part.gradients).zero_();
  }

  const BaseModel& base_;
  const PreparedJob& job_;
  const proto::Plan& plan_;
  const proto::TrainingConfig& common_;  // where all members agree
  CohortTensors tensors_;
  std::vector<Trainee> trainees_;
  std::vector<GradientTerms> terms_;
  std::vector<OptimizedRun> runs_;
  PassRandom random_;
};

}  // namespace

bool SamePass(const proto::TrainingConfig& a, const proto::TrainingConfig& b) {
  return a.compute() == b.compute() && a.checkpointing() == b.checkpointing() &&
         a.label_smoothing() == b.label_smoothing();
}

absl::StatusOr<std::vector<absl::StatusOr<TrainResult>>> TrainGroup(const BaseModel& base, const PreparedJob& job,
                                                                    const proto::Plan& plan, const TrainingGroup& group,
                                                                    const ProgressFunction& progress) {
  const absl::Time start = absl::Now();
  GroupTraining training(base, job, plan, group);
  WEFT_RETURN_IF_ERROR(training.Run(progress));
  return training.Results(start);
}

}  // namespace weft
