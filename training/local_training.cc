#include "training/local_training.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "training/adapter_tensors.h"
#include "training/cross_entropy.h"
#include "training/data/schedule.h"
#include "training/gradient_terms.h"
#include "training/optimizer.h"

namespace weft {
namespace {

// Rows of one forward pass without gradients: enough to fill the machine, few enough for little memory.
constexpr int64_t kEvaluationBatch = 64;

// Sums the loss over rows, all of them and those of the last tenth of the steps.
class LossMeter {
 public:
  explicit LossMeter(int64_t steps) : final_from_(steps - std::max<int64_t>(1, steps / 10)) {}

  void Add(int64_t step, double mean_loss, int64_t rows) {
    sum_ += mean_loss * rows;
    rows_ += rows;
    if (step < final_from_) return;
    final_sum_ += mean_loss * rows;
    final_rows_ += rows;
  }
  double mean() const { return sum_ / rows_; }
  double final_mean() const { return final_sum_ / final_rows_; }

 private:
  const int64_t final_from_;
  double sum_ = 0, final_sum_ = 0;
  int64_t rows_ = 0, final_rows_ = 0;
};

// One step's forward and backward pass; returns the mean loss of its rows. Gradients are added to.
double Backpropagate(const Classifier& classifier, const Batch& batch, DropoutSource& dropout) {
  const at::Tensor logits = classifier.Logits(batch, dropout);
  const LossAndGradient loss = MeanCrossEntropy(logits.detach(), batch.labels);
  logits.backward(loss.gradient);
  return loss.mean;
}

// An optimizer over the part of the flat values that has one learning rate.
struct OptimizedPart {
  std::unique_ptr<Optimizer> optimizer;
  at::Tensor values, gradients;
};

double ScaleOf(const proto::Plan& plan, const std::string& role) {
  const auto found = plan.learning_rate_scale().find(role);
  return found == plan.learning_rate_scale().end() ? 1 : found->second;
}

absl::StatusOr<std::vector<OptimizedPart>> CreateOptimizers(const proto::Plan& plan, AdapterTensors& adapter) {
  const std::vector<AdapterTensors::Stretch>& stretches = adapter.stretches();
  std::vector<OptimizedPart> parts;
  for (size_t first = 0, next = 0; first < stretches.size(); first = next) {
    const double scale = ScaleOf(plan, stretches[first].role);
    while (next < stretches.size() && ScaleOf(plan, stretches[next].role) == scale) ++next;
    proto::TrainingConfig config = plan.training();
    config.set_learning_rate(config.learning_rate() * scale);
    const int64_t begin = stretches[first].begin, end = stretches[next - 1].end;
    OptimizedPart part{.optimizer = nullptr,
                       .values = adapter.values().slice(0, begin, end),
                       .gradients = adapter.gradients().slice(0, begin, end)};
    WEFT_ASSIGN_OR_RETURN(part.optimizer, CreateOptimizer(config));
    parts.push_back(std::move(part));
  }
  return parts;
}

// The step that the gradients ask for; leaves them zero for the next.
void Update(double clip_grad_norm, GradientTerms& terms, std::vector<OptimizedPart>& parts, AdapterTensors& adapter) {
  const at::AutoDispatchBelowAutograd plain;  // nothing here is recorded: skip what would look
  terms.Add();
  ClipGradient(clip_grad_norm, adapter.gradients());
  for (OptimizedPart& part : parts) part.optimizer->Step(part.values, part.gradients);
  adapter.gradients().zero_();
}

absl::Status Diverged(int64_t step, const proto::TrainingConfig& training) {
  return absl::OutOfRangeError(absl::StrCat("the loss is not a finite number at step ", step + 1,
                                            "; lower training.learning_rate (", training.learning_rate(),
                                            ") or set training.clip_grad_norm (", training.clip_grad_norm(), ")"));
}

std::string Named(const CohortMember& member, const absl::Status& status) {
  return absl::StrCat("client ", member.client_id, ": ", status.message());
}

}  // namespace

absl::StatusOr<TrainResult> TrainMember(const BaseModel& base, const PreparedJob& job, const proto::Plan& plan,
                                        const CohortMember& member, const ProgressFunction& progress) {
  const absl::Time start = absl::Now();
  const proto::TrainingConfig& training = plan.training();
  const std::set<std::string> roles(plan.roles_trained().begin(), plan.roles_trained().end());
  AdapterTensors adapter(*member.start, roles, member.rank, base.device());
  WEFT_ASSIGN_OR_RETURN(const Classifier classifier,
                        Classifier::Create(base, job.linears, *job.form, adapter.tensors(), job.num_labels));
  WEFT_ASSIGN_OR_RETURN(std::vector<OptimizedPart> parts, CreateOptimizers(plan, adapter));
  GradientTerms terms(plan, member, adapter);
  DropoutSource dropout = at::detail::createCPUGenerator(MixSeed(member.seed, StreamId("dropout")));
  BatchSchedule schedule(member.shard->rows(), training.batch_size(), member.seed);
  const int64_t steps = StepsFor(training, member.shard->rows());
  LossMeter meter(steps);
  int64_t tokens = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const absl::StatusOr<Batch> batch =
        base.model().MakeBatch(*member.shard, schedule.Next(), training.max_length(), job.num_labels);
    if (!batch.ok()) return absl::Status(batch.status().code(), Named(member, batch.status()));
    const double loss = Backpropagate(classifier, *batch, dropout);
    if (!std::isfinite(loss)) return Diverged(step, training);
    Update(training.clip_grad_norm(), terms, parts, adapter);
    meter.Add(step, loss, batch->rows());
    tokens += batch->tokens();
    if (!progress(step + 1, steps))
      return absl::CancelledError(absl::StrCat("cancelled after ", step + 1, " of ", steps, " steps"));
  }
  TrainResult result{.adapter = adapter.ToAdapter(), .metrics = {}};
  if (!CheckFinite(result.adapter).ok()) return Diverged(steps - 1, training);
  result.metrics.set_steps(steps);
  result.metrics.set_tokens(tokens);
  result.metrics.set_loss(meter.mean());
  result.metrics.set_final_loss(meter.final_mean());
  result.metrics.set_seconds(absl::ToDoubleSeconds(absl::Now() - start));
  return result;
}

int64_t RowsToEvaluate(const proto::EvaluationPlan& plan, int64_t rows_in_split) {
  return plan.rows() == 0 ? rows_in_split : std::min(plan.rows(), rows_in_split);
}

absl::StatusOr<proto::Evaluation> EvaluateMember(const BaseModel& base, const PreparedJob& job,
                                                 const proto::EvaluationPlan& plan, const CohortMember& member,
                                                 const ProgressFunction& progress) {
  const c10::InferenceMode no_gradients;
  const AdapterTensors adapter(*member.start, /*roles_trained=*/{}, member.rank, base.device());
  WEFT_ASSIGN_OR_RETURN(const Classifier classifier,
                        Classifier::Create(base, job.linears, *job.form, adapter.tensors(), job.num_labels));
  DropoutSource no_dropout;
  const int64_t total = RowsToEvaluate(plan, member.shard->rows());
  proto::Evaluation result;
  result.set_job_id(plan.job_id());
  result.set_round(plan.round());
  result.set_client_id(member.client_id);
  for (int64_t done = 0; done < total;) {
    std::vector<int64_t> rows;
    for (; done < total && static_cast<int64_t>(rows.size()) < kEvaluationBatch; ++done) {
      rows.push_back(EvenlySpacedRow(done, total, member.shard->rows()));
    }
    const absl::StatusOr<Batch> batch = base.model().MakeBatch(*member.shard, rows, plan.max_length(), job.num_labels);
    if (!batch.ok()) return absl::Status(batch.status().code(), Named(member, batch.status()));
    const at::Tensor logits = classifier.Logits(*batch, no_dropout);
    const at::Tensor losses = at::cross_entropy_loss(logits, batch->labels, /*weight=*/{}, at::Reduction::None);
    result.set_examples(result.examples() + rows.size());
    result.set_correct(result.correct() + logits.argmax(-1).eq(batch->labels).sum().item<int64_t>());
    result.set_loss_sum(result.loss_sum() + losses.sum(at::kDouble).item<double>());
    if (!progress(done, total))
      return absl::CancelledError(absl::StrCat("cancelled after ", done, " of ", total, " rows"));
  }
  return result;
}

}  // namespace weft
