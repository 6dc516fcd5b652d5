#include "client/testing/fake_trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/forms/form.h"
#include "common/file.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace weft {
namespace {

int64_t StepsOf(const proto::TrainingConfig& training, int64_t rows) {
  if (training.steps() > 0) return training.steps();
  return training.epochs() * ((rows + training.batch_size() - 1) / training.batch_size());
}

}  // namespace

absl::StatusOr<std::unique_ptr<FakeTrainer>> FakeTrainer::Create(const Options& options) {
  WEFT_ASSIGN_OR_RETURN(const std::string config, ReadFile(absl::StrCat(options.base, "/config.json")));
  WEFT_ASSIGN_OR_RETURN(BaseDescription base, DescribeBase(config));
  WEFT_ASSIGN_OR_RETURN(std::string hash, HashBase(options.base));
  return absl::WrapUnique(new FakeTrainer(options, std::move(base), std::move(hash)));
}

FakeTrainer::FakeTrainer(const Options& options, BaseDescription base, std::string base_hash)
    : options_(options), base_(std::move(base)), base_hash_(std::move(base_hash)) {}

absl::StatusOr<std::shared_ptr<const Layout>> FakeTrainer::PrepareJob(const proto::JobOffer& job) {
  labels_[job.job_id()] = job.task().labels_size();
  return MakeLayout(job.adapter(), job.task(), base_);
}

absl::StatusOr<std::vector<absl::StatusOr<TrainResult>>> FakeTrainer::Train(const proto::Plan& plan,
                                                                            std::span<const CohortMember> cohort,
                                                                            const ProgressFunction& progress) {
  std::vector<absl::StatusOr<TrainResult>> results;
  for (const CohortMember& member : cohort) {
    results.push_back(TrainOne(plan, member, progress));
    if (absl::IsCancelled(results.back().status())) return results.back().status();
  }
  return results;
}

absl::StatusOr<TrainResult> FakeTrainer::TrainOne(const proto::Plan& plan, const CohortMember& member,
                                                  const ProgressFunction& progress) {
  const int64_t steps = StepsOf(plan.training(), member.shard->rows());
  Adapter adapter = member.start->Clone();
  Philox random(member.seed, StreamId(member.client_id));
  for (int64_t step = 0; step < steps; ++step) {
    while (options_.hold && options_.hold(member.client_id, plan.round())) {
      if (!progress(step, steps)) return absl::CancelledError("training cancelled");
      absl::SleepFor(absl::Milliseconds(1));
    }
    for (float& value : adapter.values()) value += 0.01f * random.NextFloat();
    if (!progress(step + 1, steps)) return absl::CancelledError("training cancelled");
  }
  WEFT_RETURN_IF_ERROR(options_.train_status);
  ++trained_;
  if (options_.nan) adapter.values().front() = std::numeric_limits<float>::quiet_NaN();
  proto::TrainMetrics metrics;
  metrics.set_steps(steps);
  metrics.set_tokens(member.shard->tokens());
  metrics.set_loss(1.0 / plan.round());
  metrics.set_final_loss(0.5 / plan.round());
  metrics.set_seconds(1);
  return TrainResult{std::move(adapter), metrics};
}

absl::StatusOr<std::vector<absl::StatusOr<proto::Evaluation>>> FakeTrainer::Evaluate(
    const proto::EvaluationPlan& plan, std::span<const CohortMember> cohort, const ProgressFunction& progress) {
  WEFT_RETURN_IF_ERROR(options_.evaluate_status);
  std::vector<absl::StatusOr<proto::Evaluation>> results;
  for (const CohortMember& member : cohort) {
    const int64_t rows = plan.rows() == 0 ? member.shard->rows() : std::min(plan.rows(), member.shard->rows());
    double sum = 0;
    for (const float value : member.start->values()) sum += value;
    const double mean = std::max(sum / static_cast<double>(member.start->layout().num_elements()), 0.0);
    const double accuracy = 1 - std::exp(-8 * mean);
    proto::Evaluation result;
    result.set_job_id(plan.job_id());
    result.set_round(plan.round());
    result.set_client_id(member.client_id);
    result.set_examples(rows);
    result.set_correct(static_cast<uint64_t>(accuracy * static_cast<double>(rows)));
    result.set_loss_sum((1 - accuracy) * static_cast<double>(rows));
    for (int c = 0; rows > 0 && c < labels_.at(plan.job_id()); ++c) result.add_classes();
    if (result.classes_size() > 0) {
      proto::ClassCounts& first = *result.mutable_classes(0);
      first.set_correct(result.correct());
      first.set_predicted(result.examples());
      first.set_actual(result.correct());
      result.mutable_classes()->rbegin()->set_actual(result.examples() - result.correct());
    }
    results.push_back(result);
    if (!progress(rows, rows)) return absl::CancelledError("evaluation cancelled");
  }
  return results;
}

absl::Status FakeTrainer::AddToBase(const std::string& job_id, int64_t round, const Adapter&) {
  int64_t& last = base_rounds_[job_id];
  if (round != last + 1) {
    return absl::FailedPreconditionError(absl::StrCat("base step of round ", round, " after round ", last));
  }
  last = round;
  return absl::OkStatus();
}

int64_t FakeTrainer::base_round(const std::string& job_id) const {
  const auto found = base_rounds_.find(job_id);
  return found == base_rounds_.end() ? 0 : found->second;
}

}  // namespace weft
