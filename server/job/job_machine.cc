#include "server/job/job_machine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/evaluation/evaluation.h"
#include "server/job/duration.h"
#include "server/job/roster.h"
#include "server/selection/selection.h"

namespace weft::server {
namespace {

constexpr absl::Duration kLongestRetryPause = absl::Seconds(30);
constexpr absl::Duration kStorageRetryPause = absl::Seconds(5);

// Doubling from a second, so that a cohort that fails at once does not burn all attempts in a moment.
absl::Duration RetryPause(int64_t abandoned) {
  return abandoned > 5 ? kLongestRetryPause : absl::Seconds(int64_t{1} << (abandoned - 1));
}

void Append(JobActions more, JobActions* actions) {
  actions->insert(actions->end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

}  // namespace

JobMachine::JobMachine(Options options)
    : config_(options.config),
      rejoin_grace_(options.rejoin_grace),
      privacy_rounds_(options.privacy_rounds),
      selection_seed_(options.selection_seed.value_or(options.config.seed())),
      history_(std::move(options.history)),
      gathers_(options.candidates == nullptr),
      candidates_(options.candidates != nullptr ? std::move(options.candidates) : std::make_shared<Roster>()) {}

JobActions JobMachine::Start(absl::Time now) {
  state_ = proto::WAITING;
  if (history_.started.has_value()) {
    state_ = proto::RUNNING;
    if (gathers_) wait_for_clients_until_ = now + rejoin_grace_;
  }
  if (!history_.open.has_value()) return Advance(now);
  const OpenAttempt open = *std::exchange(history_.open, std::nullopt);
  std::vector<std::string> done;
  for (const proto::Update& update : open.updates) {
    done.push_back(update.client_id());
    updates_[update.client_id()] = update;
  }
  phase_ = Phase::kTraining;
  phase_started_ = open.started;
  round_.emplace(MakeRound(open.cohort));
  return Translate(round_->Resume(done, now), now);
}

JobActions JobMachine::OnReady(const std::string& client, Candidates::Rows rows, absl::Time now) {
  if (phase_ == Phase::kEnded) return {};
  candidates_->Add(client, rows);
  if (phase_ == Phase::kWaiting) return Advance(now);
  return Translate(round_->OnReady(client, now), now);
}

JobActions JobMachine::OnLost(const std::string& client, absl::Time now) {
  candidates_->Remove(client);
  if (phase_ == Phase::kEnded || !round_.has_value()) return {};
  return Translate(round_->OnLost(client, now), now);
}

JobActions JobMachine::OnGone(const std::string& client, absl::Time now) {
  candidates_->Remove(client);
  if (phase_ == Phase::kEnded || !round_.has_value()) return {};
  return Translate(round_->OnGone(client, now), now);
}

JobActions JobMachine::OnProgress(const std::string& client, const Sign& sign, absl::Time now) {
  if (phase_ == Phase::kEnded || !round_.has_value() || sign.round != work_round()) return {};
  return Translate(round_->OnProgress(client, sign.activity, sign.done, now), now);
}

JobActions JobMachine::OnFailure(const std::string& client, int64_t round, const std::string& reason, absl::Time now) {
  if (phase_ == Phase::kEnded || !round_.has_value() || round != work_round()) return {};
  if (phase_ == Phase::kTraining) candidates_->Failed(client, round);
  return Translate(round_->OnFailure(client, reason, now), now);
}

JobActions JobMachine::OnEvaluation(const proto::Evaluation& evaluation, absl::Time now) {
  if (phase_ != Phase::kEvaluating || evaluation.round() != last_round()) return {};
  absl::StatusOr<RoundActions> actions = round_->OnAnswer(evaluation.client_id(), now);
  if (!actions.ok()) return {};
  candidates_->Answered(evaluation.client_id());
  evaluations_[evaluation.client_id()] = evaluation;
  return Translate(*actions, now);
}

absl::Status JobMachine::CheckUpdate(const std::string& client, int64_t round) const {
  const int64_t next = last_round() + 1;
  if (phase_ == Phase::kEnded) return absl::AbortedError("the job has ended; drop this work");
  if (round < next) {
    return absl::AbortedError(
        absl::StrCat("round ", round, " is over (the next is ", next, "); drop this work and wait for a plan"));
  }
  if (round > next) {
    return absl::FailedPreconditionError(
        absl::StrCat("round ", round, " has not begun (the next is ", next, "); wait for a plan"));
  }
  if (phase_ != Phase::kTraining && phase_ != Phase::kAggregating) {
    return absl::AbortedError(
        absl::StrCat("round ", round, " is not under way (it was given up or has not begun); wait for a plan"));
  }
  return round_->CheckAnswer(client);
}

absl::StatusOr<JobActions> JobMachine::OnUpdate(const proto::Update& update, absl::Time now) {
  if (absl::Status status = CheckUpdate(update.client_id(), update.round()); !status.ok()) return status;
  absl::StatusOr<RoundActions> actions = round_->OnAnswer(update.client_id(), now);
  if (!actions.ok()) return actions.status();
  candidates_->Answered(update.client_id());
  updates_[update.client_id()] = update;
  return Translate(*actions, now);
}

JobActions JobMachine::OnOpenFailed(const absl::Status& why, absl::Time now) {
  round_.reset();
  phase_ = Phase::kWaiting;
  retry_at_ = now + kStorageRetryPause;
  message_ = absl::StrCat("waiting: ", std::string(why.message()));
  return {};
}

JobActions JobMachine::OnCommitted(const proto::RoundStatus& summary, absl::Time now) {
  if (phase_ != Phase::kAggregating) return {};
  history_.rounds.push_back({summary, Evaluated::kNo});
  history_.abandoned = 0;
  bytes_up_ = bytes_down_ = 0;
  round_.reset();
  updates_.clear();
  phase_ = Phase::kWaiting;
  message_.clear();
  return Advance(now);
}

JobActions JobMachine::End(proto::JobState state, const std::string& message, absl::Time now) {
  JobActions actions;
  if (round_.has_value() && round_->state() == Round::State::kOpen) {
    for (const auto& [client, member] : round_->Members()) {
      if (member == Round::MemberState::kWorking) actions.push_back(CancelClient{client, work_round(), message});
    }
  }
  phase_ = Phase::kEnded;
  phase_started_ = now;
  state_ = state;
  message_ = message;
  actions.push_back(EndJob{state, message});
  return actions;
}

JobActions JobMachine::OnTick(absl::Time now) {
  if (phase_ == Phase::kWaiting) return Advance(now);
  if (phase_ == Phase::kEnded) return {};
  return Translate(round_->OnTick(now), now);
}

void JobMachine::AddBytes(uint64_t up, uint64_t down) {
  if (phase_ == Phase::kEvaluating) {
    proto::RoundStatus& status = history_.rounds.back().status;
    status.set_bytes_up(status.bytes_up() + up);
    status.set_bytes_down(status.bytes_down() + down);
    return;
  }
  bytes_up_ += up;
  bytes_down_ += down;
}

int64_t JobMachine::planned_rows() const {
  return evaluating_ == Evaluated::kFinal ? config_.evaluation().final_rows() : config_.evaluation().rows();
}

std::string JobMachine::WhyStop(absl::Time now) const {
  if (!stop_reason_.empty()) return stop_reason_;
  std::string reason = StopReason(config_.stop(), history_, now);
  if (!reason.empty()) return reason;
  if (privacy_rounds_.has_value() && last_round() >= *privacy_rounds_) {
    return absl::StrCat("privacy budget spent after ", last_round(), last_round() == 1 ? " round" : " rounds");
  }
  // After a restart: the last evaluation may have taken the reason away.
  if (!history_.rounds.empty() && history_.rounds.back().evaluated == Evaluated::kFinal) {
    return "a stop rule held before the last evaluation";
  }
  return "";
}

Evaluated JobMachine::EvaluationDue(absl::Time now) const {
  if (phase_ == Phase::kEnded || history_.rounds.empty()) return Evaluated::kNo;
  return server::EvaluationDue(config_.evaluation(), history_.rounds.back(), !WhyStop(now).empty());
}

JobActions JobMachine::Advance(absl::Time now) {
  if (phase_ != Phase::kWaiting) return {};
  stop_reason_ = WhyStop(now);
  if (const Evaluated due = EvaluationDue(now); due != Evaluated::kNo) return BeginEvaluation(due, now);
  if (!stop_reason_.empty()) return End(proto::FINISHED, stop_reason_, now);
  return BeginRound(now);
}

JobActions JobMachine::BeginRound(absl::Time now) {
  if (now < retry_at_) return {};
  const int64_t needed = std::max(config_.selection().min_ready(), config_.round().min_updates());
  if (candidates_->trainers() < needed) {
    message_ = absl::StrCat("waiting for clients: ", candidates_->trainers(), " of ", needed, " ready");
    return {};
  }
  SelectionSnapshot snapshot;
  snapshot.seed = selection_seed_;
  snapshot.round = last_round() + 1;
  snapshot.attempt = history_.abandoned + 1;
  snapshot.min_updates = config_.round().min_updates();
  std::vector<std::string> cohort = candidates_->Draw(config_.selection(), snapshot, needed);
  if (cohort.empty() && snapshot.min_updates > 0) {
    return Abandon(absl::StrCat("selection drew fewer than ", snapshot.min_updates, " of ", candidates_->trainers(),
                                " ready clients; raise selection.rate or lower round.min_updates"),
                   now);
  }
  if (!history_.started.has_value()) history_.started = now;
  state_ = proto::RUNNING;
  phase_ = Phase::kTraining;
  phase_started_ = now;
  message_.clear();
  updates_.clear();
  JobActions actions = {OpenRound{snapshot.round, snapshot.attempt, cohort}};
  round_.emplace(MakeRound(std::move(cohort)));
  Append(Translate(round_->Start(now), now), &actions);
  return actions;
}

JobActions JobMachine::BeginEvaluation(Evaluated due, absl::Time now) {
  const bool wait_for_more = now < wait_for_clients_until_ && candidates_->trainers() < config_.selection().min_ready();
  if (candidates_->empty() || wait_for_more) {
    message_ = "waiting for clients to evaluate";
    return {};
  }
  message_.clear();
  evaluating_ = due;
  evaluations_.clear();
  phase_ = Phase::kEvaluating;
  phase_started_ = now;
  std::vector<std::string> cohort = candidates_->ForEvaluation(last_round());
  if (cohort.empty()) return FinishEvaluation(now);
  Round::Options options = MakeRound(std::move(cohort)).options();
  options.min_answers = 0;
  options.close_at = static_cast<int64_t>(options.cohort.size());
  round_.emplace(std::move(options));
  return Translate(round_->Start(now), now);
}

JobActions JobMachine::FinishEvaluation(absl::Time now) {
  EvaluationSum sum(config_.task());
  // In order of client id, so that the bits do not depend on arrival.
  for (const auto& [client, evaluation] : evaluations_) sum.Add(evaluation);
  CommittedRound& last = history_.rounds.back();
  sum.Fill(&last.status);
  last.status.set_evaluation_seconds(last.status.evaluation_seconds() + absl::ToDoubleSeconds(now - phase_started_));
  last.evaluated = evaluating_;
  round_.reset();
  phase_ = Phase::kWaiting;
  JobActions actions = {SaveRound{last_round()}};
  Append(Advance(now), &actions);
  return actions;
}

JobActions JobMachine::Abandon(const std::string& reason, absl::Time now) {
  ++history_.abandoned;
  round_.reset();
  updates_.clear();
  phase_ = Phase::kWaiting;
  retry_at_ = now + RetryPause(history_.abandoned);
  message_ = absl::StrCat("round ", last_round() + 1, " was abandoned and is tried again: ", reason);
  JobActions actions = {DropRound{last_round() + 1, reason}};
  if (history_.abandoned >= config_.round().max_attempts()) {
    Append(End(proto::FAILED,
               absl::StrCat("round ", last_round() + 1, " was abandoned ", history_.abandoned,
                            " times in a row (round.max_attempts); the last time: ", reason),
               now),
           &actions);
  }
  return actions;
}

Round JobMachine::MakeRound(std::vector<std::string> cohort) const {
  Round::Options options;
  options.min_answers = config_.round().min_updates();
  options.close_at = CloseAt(config_.selection(), static_cast<int64_t>(cohort.size()));
  options.cohort = std::move(cohort);
  options.progress_timeout = ToDuration(config_.round().progress_timeout());
  options.rejoin_grace = rejoin_grace_;
  return Round(std::move(options));
}

JobActions JobMachine::Translate(const RoundActions& round_actions, absl::Time now) {
  JobActions actions;
  const bool evaluating = phase_ == Phase::kEvaluating;
  const int64_t round = work_round();
  for (const RoundAction& action : round_actions) {
    if (const auto* plan = std::get_if<SendPlan>(&action)) {
      if (evaluating) {
        actions.push_back(SendEvaluation{plan->client, round, planned_rows()});
      } else {
        actions.push_back(SendTraining{plan->client, round});
      }
    } else if (const auto* cancel = std::get_if<CancelWork>(&action)) {
      if (cancel->stalled) candidates_->Stalled(cancel->client, round);
      actions.push_back(CancelClient{cancel->client, round, cancel->reason});
    } else if (const auto* abandon = std::get_if<AbandonRound>(&action)) {
      Append(Abandon(abandon->reason, now), &actions);
    } else if (evaluating) {
      Append(FinishEvaluation(now), &actions);
    } else {
      phase_ = Phase::kAggregating;
      actions.push_back(CommitRound{round});
    }
  }
  return actions;
}

}  // namespace weft::server
