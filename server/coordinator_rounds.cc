// CoordinatorImpl: carries out what the job's state machine wants, and turns closed rounds into committed ones.

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "aggregators/core/state.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "server/coordinator_impl.h"
#include "server/job/duration.h"
#include "server/round/plan.h"

namespace weft::server {
namespace {

constexpr absl::Duration kCommitRetryPause = absl::Seconds(5);

uint32_t Milliseconds(const google::protobuf::Duration& duration) {
  return static_cast<uint32_t>(absl::ToInt64Milliseconds(ToDuration(duration)));
}

}  // namespace

void CoordinatorImpl::Apply(JobActions actions) {
  for (const JobAction& action : actions) {
    if (const auto* open = std::get_if<OpenRound>(&action)) {
      absl::StatusOr<std::shared_ptr<Fold>> fold = MakeFold(*running_, static_cast<int64_t>(open->cohort.size()));
      if (!fold.ok()) {
        const std::string reason = absl::StrCat("round ", open->round, ": ", fold.status().message());
        return Apply(running_->machine->End(proto::FAILED, reason, Now()));
      }
      if (absl::Status status = OpenAttemptOf(*open, *std::move(fold)); !status.ok()) {
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

absl::Status CoordinatorImpl::OpenAttemptOf(const OpenRound& open, std::shared_ptr<Fold> fold) {
  const JobHistory& history = running_->machine->history();
  WEFT_RETURN_IF_ERROR(journal_->OpenAttemptOf(running_->stored.id, open.cohort, *history.started, Now()));
  running_->fold = std::move(fold);
  Logger("server.round")
      ->info("event=open job={} round={} attempt={} selected={}", running_->stored.id, open.round, open.attempt,
             open.cohort.size());
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Fold>> CoordinatorImpl::MakeFold(const Job& job, int64_t updates) const {
  Fold::Options options;
  options.job = &job.checked;
  options.state = job.current->state();
  options.plan = PlanOf(job, job.machine->last_round() + 1, "");
  options.updates = updates;
  options.config = &options_.config;
  return Fold::Create(options);
}

proto::Plan CoordinatorImpl::PlanOf(const Job& job, int64_t round, const std::string& client) const {
  proto::Plan plan = PlanBeforeRule(job.checked.config, job.stored.id, round, client);
  plan.set_progress_interval_ms(Milliseconds(options_.config.progress_interval()));
  return plan;
}

void CoordinatorImpl::SendTrainingPlan(const SendTraining& action) {
  const proto::Plan before = PlanOf(*running_, action.round, action.client);
  std::optional<proto::Plan> plan = running_->fold->PlanFor(before, clients_[action.client].max_rank);
  if (!plan.has_value()) return;
  proto::ServerMessage message;
  *message.mutable_train() = *std::move(plan);
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
  plan.set_compute(config.training().compute());
  for (const std::string& role : running_->roles_local) plan.add_roles_local(role);
  plan.set_base_residual(aggregators::HasRole(*running_->current->layout(), "base_a"));
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
      ->info("event=evaluated job={} round={} accuracy={:.4f} loss={:.4f} rows={}{}{}", running_->stored.id,
             round.status.round(), round.status.accuracy(), round.status.loss(), round.status.evaluated_examples(),
             round.status.has_f1() ? absl::StrFormat(" f1=%.4f", round.status.f1()) : "",
             round.status.has_perplexity() ? absl::StrFormat(" perplexity=%.4f tokens=%d", round.status.perplexity(),
                                                             round.status.evaluated_tokens())
                                           : "");
  const absl::Status status = journal_->SaveRound(running_->stored.id, round);
  if (status.ok()) return;
  // A restart evaluates this round again.
  Logger("server.journal")
      ->error("event=evaluation_not_written job={} round={} reason=\"{}\"", running_->stored.id, round.status.round(),
              std::string(status.message()));
}

void CoordinatorImpl::FailRunning(const Fold& fold, const absl::Status& why) {
  if (shut_down_ || running_ == nullptr || running_->fold.get() != &fold) return;
  Apply(running_->machine->End(proto::FAILED, absl::StrCat("round ", fold.round(), ": ", std::string(why.message())),
                               Now()));
}

void CoordinatorImpl::Settle(MutexLock& lock) {
  Changed();
  while (!shut_down_ && running_ != nullptr && running_->fold != nullptr) {
    const Fold& fold = *running_->fold;
    if (!fold.closed || !fold.Settled() || fold.busy || Now() < fold.retry_at) return;
    Commit(lock);
    Changed();
  }
}

absl::StatusOr<CoordinatorImpl::Stored> CoordinatorImpl::Store(Fold& fold) {
  WEFT_RETURN_IF_ERROR(fold.Finish());
  Stored stored;
  WEFT_ASSIGN_OR_RETURN(TensorStore::Pin state, journal_->tensors().Put(*fold.finished));
  stored.tensors.state = {state.hash(), fold.finished->layout_ptr()};
  stored.pins.push_back(std::move(state));
  if (fold.base_step == nullptr) return stored;
  WEFT_ASSIGN_OR_RETURN(TensorStore::Pin step, journal_->tensors().Put(*fold.base_step));
  stored.tensors.base_step = {step.hash(), fold.base_step->layout_ptr()};
  stored.pins.push_back(std::move(step));
  return stored;
}

void CoordinatorImpl::Commit(MutexLock& lock) {
  const std::shared_ptr<Fold> fold = running_->fold;
  fold->busy = true;
  lock.unlock();
  const absl::StatusOr<Stored> stored = Store(*fold);
  lock.lock();
  fold->busy = false;
  // Stopped or shut down meanwhile.
  if (shut_down_ || running_ == nullptr || running_->fold != fold) return;
  const absl::Status status = stored.ok() ? Record(*fold, stored->tensors) : stored.status();
  if (status.ok()) return;
  if (fold->finished == nullptr || !absl::IsResourceExhausted(status)) return FailRunning(*fold, status);
  Logger("server.journal")
      ->error("event=round_not_written job={} round={} retry_in={} reason=\"{}\"", running_->stored.id, fold->round(),
              absl::FormatDuration(kCommitRetryPause), std::string(status.message()));
  fold->retry_at = Now() + kCommitRetryPause;
  running_->machine->OnCommitFailed(status);
}

absl::Status CoordinatorImpl::Record(const Fold& fold, const RoundTensors& tensors) {
  Job& job = *running_;
  proto::RoundStatus summary = job.machine->Summary(Now());
  const auto spent = job.checked.rule->Spent(job.checked.config, fold.round());
  if (spent.has_value()) summary.set_epsilon(spent->epsilon);
  const int64_t best = BestRound(job.machine->history().rounds);
  WEFT_RETURN_IF_ERROR(journal_->CommitRound(job.stored.id, {summary, Evaluated::kNo}, tensors, best));
  Logger("server.round")
      ->info("event=commit job={} round={} updates={} examples={} train_loss={:.4f} seconds={:.2f}{}", job.stored.id,
             fold.round(), summary.updates(), summary.examples(), summary.train_loss(), summary.train_seconds(),
             spent.has_value()
                 ? absl::StrFormat(" epsilon=%.4f epsilon_budget=%g", spent->epsilon, spent->epsilon_budget)
                 : "");
  job.current = fold.broadcast;
  job.role_hashes[fold.round()] = fold.broadcast->hashes();
  job.stored.states[fold.round()] = tensors.state;
  if (tensors.base_step.has_value()) job.stored.base_steps[fold.round()] = *tensors.base_step;
  job.fold.reset();
  JobActions actions = job.machine->OnCommitted(summary, Now());
  KeepOnly(job, best);
  Apply(std::move(actions));
  return absl::OkStatus();
}

}  // namespace weft::server
