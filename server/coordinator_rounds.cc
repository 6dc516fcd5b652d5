// CoordinatorImpl: carries out what the job's state machine wants, and turns closed rounds into committed ones.

#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "server/coordinator_impl.h"
#include "server/job/duration.h"

namespace weft::server {
namespace {

constexpr absl::Duration kCommitRetryPause = absl::Seconds(5);

// The tensors of the roles a plan asks for, in layout order.
absl::StatusOr<std::shared_ptr<const Layout>> LayoutSent(std::shared_ptr<const Layout> layout,
                                                         const proto::Plan& plan) {
  const std::set<std::string> roles(plan.roles_sent().begin(), plan.roles_sent().end());
  std::vector<TensorSpec> sent;
  for (const TensorSpec& tensor : layout->tensors()) {
    if (roles.contains(tensor.role)) sent.push_back(tensor);
  }
  if (sent.size() == layout->tensors().size()) return layout;
  return Layout::Create(std::move(sent));
}

uint32_t Milliseconds(const google::protobuf::Duration& duration) {
  return static_cast<uint32_t>(absl::ToInt64Milliseconds(ToDuration(duration)));
}

}  // namespace

absl::Status Fold::Validate(const aggregators::ClientUpdate& update) {
  MutexLock lock(mutex);
  if (aggregator == nullptr) return absl::AbortedError("the round has closed without this update; wait for a plan");
  return aggregator->Validate(update);
}

absl::Status Fold::Accumulate(const aggregators::ClientUpdate& update) {
  MutexLock lock(mutex);
  return aggregator->Accumulate(update);
}

absl::Status Fold::Finish() {
  MutexLock lock(mutex);
  if (finished != nullptr) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(Adapter adapter, std::move(*aggregator).Finish());
  aggregator.reset();
  finished = std::make_shared<const Adapter>(std::move(adapter));
  return absl::OkStatus();
}

void CoordinatorImpl::Apply(JobActions actions) {
  for (const JobAction& action : actions) {
    if (const auto* open = std::get_if<OpenRound>(&action)) {
      if (absl::Status status = OpenAttemptOf(*open); !status.ok()) {
        Logger("server.round")
            ->error("event=not_opened job={} round={} reason=\"{}\"", running_->stored.id, open->round,
                    std::string(status.message()));
        return Apply(running_->machine->OnOpenFailed(status, Now()));
      }
    } else if (const auto* train = std::get_if<SendTraining>(&action)) {
      SendTrainingPlan(*train);
    } else if (const auto* evaluate = std::get_if<SendEvaluation>(&action)) {
      SendEvaluationPlan(*evaluate);
    } else if (const auto* cancel = std::get_if<CancelClient>(&action)) {
      SendCancel(*cancel);
    } else if (const auto* drop = std::get_if<DropRound>(&action)) {
      GiveUp(*drop);
    } else if (std::holds_alternative<CommitRound>(action)) {
      running_->fold->closed = true;
    } else if (std::holds_alternative<SaveRound>(action)) {
      Save();
    } else {
      EndRunning(std::get<EndJob>(action));
    }
  }
}

absl::Status CoordinatorImpl::OpenAttemptOf(const OpenRound& open) {
  const JobHistory& history = running_->machine->history();
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<Fold> fold, MakeFold());
  WEFT_RETURN_IF_ERROR(journal_->OpenAttemptOf(running_->stored.id, open.cohort, *history.started, Now()));
  running_->fold = std::move(fold);
  Logger("server.round")
      ->info("event=open job={} round={} attempt={} selected={}", running_->stored.id, open.round, open.attempt,
             open.cohort.size());
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Fold>> CoordinatorImpl::MakeFold() const {
  auto fold = std::make_shared<Fold>();
  fold->round = running_->machine->last_round() + 1;
  fold->global = running_->current;
  WEFT_ASSIGN_OR_RETURN(fold->aggregator,
                        running_->checked.rule->Create(running_->checked.config, {fold->global.get(), fold->round}));
  proto::Plan plan = PlanBeforeRule(fold->round, "");
  fold->aggregator->FillPlan(&plan);
  WEFT_ASSIGN_OR_RETURN(fold->update_layout, LayoutSent(running_->checked.layout, plan));
  return fold;
}

proto::Plan CoordinatorImpl::PlanBeforeRule(int64_t round, const std::string& client) const {
  const proto::JobConfig& config = running_->checked.config;
  proto::Plan plan;
  plan.set_job_id(running_->stored.id);
  plan.set_round(round);
  proto::TrainingConfig& training = *plan.mutable_training();
  training = config.training();
  training.set_learning_rate(training.learning_rate() *
                             std::pow(training.learning_rate_decay(), static_cast<double>(round - 1)));
  training.set_learning_rate_decay(1);
  plan.set_seed(MixSeed(MixSeed(config.seed(), static_cast<uint64_t>(round)), StreamId(client)));
  plan.set_progress_interval_ms(Milliseconds(options_.config.progress_interval()));
  return plan;
}

void CoordinatorImpl::SendTrainingPlan(const SendTraining& action) {
  proto::ServerMessage message;
  *message.mutable_train() = PlanBeforeRule(action.round, action.client);
  {
    MutexLock lock(running_->fold->mutex);
    // Finished already: the round has closed and nobody is asked any more.
    if (running_->fold->aggregator == nullptr) return;
    running_->fold->aggregator->FillPlan(message.mutable_train());
  }
  clients_[action.client].activity = "training";
  clients_[action.client].steps_done = clients_[action.client].steps_total = 0;
  SendTo(action.client, message);
}

void CoordinatorImpl::SendEvaluationPlan(const SendEvaluation& action) {
  const proto::JobConfig& config = running_->checked.config;
  proto::ServerMessage message;
  proto::EvaluationPlan& plan = *message.mutable_evaluate();
  plan.set_job_id(running_->stored.id);
  plan.set_round(action.round);
  plan.set_split(config.evaluation().split());
  plan.set_rows(action.rows);
  plan.set_max_length(config.training().max_length());
  plan.set_progress_interval_ms(Milliseconds(options_.config.progress_interval()));
  clients_[action.client].activity = "evaluating";
  clients_[action.client].steps_done = clients_[action.client].steps_total = 0;
  SendTo(action.client, message);
}

void CoordinatorImpl::SendCancel(const CancelClient& action) {
  Logger("server.round")
      ->info("event=cancel job={} round={} client={} reason=\"{}\"", running_->stored.id, action.round, action.client,
             action.reason);
  proto::ServerMessage message;
  message.mutable_cancel()->set_job_id(running_->stored.id);
  message.mutable_cancel()->set_round(action.round);
  message.mutable_cancel()->set_reason(action.reason);
  clients_[action.client].activity = "idle";
  SendTo(action.client, message);
}

void CoordinatorImpl::GiveUp(const DropRound& drop) {
  Logger("server.round")
      ->warn("event=abandon job={} round={} reason=\"{}\"", running_->stored.id, drop.round, drop.reason);
  running_->fold.reset();
  const absl::Status status = journal_->DropAttempt(running_->stored.id, running_->machine->history().abandoned);
  if (status.ok()) return;
  // The next attempt replaces it; a restart before that goes on with this one.
  Logger("server.journal")
      ->error("event=drop_not_written job={} round={} reason=\"{}\"", running_->stored.id, drop.round,
              std::string(status.message()));
}

void CoordinatorImpl::Save() {
  const CommittedRound& round = running_->machine->history().rounds.back();
  Logger("server.round")
      ->info("event=evaluated job={} round={} accuracy={:.4f} loss={:.4f} rows={}", running_->stored.id,
             round.status.round(), round.status.accuracy(), round.status.loss(), round.status.evaluated_examples());
  const absl::Status status = journal_->SaveRound(running_->stored.id, round);
  if (status.ok()) return;
  // A restart evaluates this round again.
  Logger("server.journal")
      ->error("event=evaluation_not_written job={} round={} reason=\"{}\"", running_->stored.id, round.status.round(),
              std::string(status.message()));
}

void CoordinatorImpl::FailRunning(const Fold& fold, const absl::Status& why) {
  if (shut_down_ || running_ == nullptr || running_->fold.get() != &fold) return;
  Apply(running_->machine->End(proto::FAILED, absl::StrCat("round ", fold.round, ": ", std::string(why.message())),
                               Now()));
}

void CoordinatorImpl::Settle(MutexLock& lock) {
  Changed();
  while (!shut_down_ && running_ != nullptr && running_->fold != nullptr) {
    const Fold& fold = *running_->fold;
    if (!fold.closed || fold.folding > 0 || fold.busy || Now() < fold.retry_at) return;
    Commit(lock);
    Changed();
  }
}

void CoordinatorImpl::Commit(MutexLock& lock) {
  const std::shared_ptr<Fold> fold = running_->fold;
  fold->busy = true;
  lock.unlock();
  const absl::Status finished = fold->Finish();
  absl::StatusOr<TensorStore::Pin> tensors = finished.ok() ? journal_->tensors().Put(*fold->finished) : finished;
  lock.lock();
  fold->busy = false;
  // Stopped or shut down meanwhile.
  if (shut_down_ || running_ == nullptr || running_->fold != fold) return;
  const absl::Status status = tensors.ok() ? Record(*fold, tensors->hash()) : tensors.status();
  if (status.ok()) return;
  if (!finished.ok() || !absl::IsResourceExhausted(status)) return FailRunning(*fold, status);
  Logger("server.journal")
      ->error("event=round_not_written job={} round={} retry_in={} reason=\"{}\"", running_->stored.id, fold->round,
              absl::FormatDuration(kCommitRetryPause), std::string(status.message()));
  fold->retry_at = Now() + kCommitRetryPause;
  running_->machine->OnCommitFailed(status);
}

absl::Status CoordinatorImpl::Record(const Fold& fold, const std::string& tensors) {
  Job& job = *running_;
  const proto::RoundStatus summary = job.machine->Summary(Now());
  const int64_t best = BestRound(job.machine->history().rounds);
  WEFT_RETURN_IF_ERROR(journal_->CommitRound(job.stored.id, {summary, Evaluated::kNo}, tensors, best));
  Logger("server.round")
      ->info("event=commit job={} round={} updates={} examples={} train_loss={:.4f} seconds={:.2f}", job.stored.id,
             fold.round, summary.updates(), summary.examples(), summary.train_loss(), summary.train_seconds());
  job.current = fold.finished;
  job.fold.reset();
  job.stored.tensors[summary.round()] = tensors;
  JobActions actions = job.machine->OnCommitted(summary, Now());
  KeepOnly(job, best);
  Apply(std::move(actions));
  return absl::OkStatus();
}

}  // namespace weft::server
