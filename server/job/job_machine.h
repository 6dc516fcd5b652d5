#ifndef WEFT_SERVER_JOB_JOB_MACHINE_H_
#define WEFT_SERVER_JOB_JOB_MACHINE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/job.pb.h"
#include "proto/plan.pb.h"
#include "proto/status.pb.h"
#include "server/job/candidates.h"
#include "server/job/job_actions.h"
#include "server/job/job_history.h"
#include "server/round/round.h"

namespace weft::server {

// One job from its first round to its end. A pure state machine like Round: events in, actions out, time as an
// argument. Order of calls: Start once, then events in any order. The cycle:
//   waiting -> training -> aggregating -> waiting -> evaluating (when due) -> waiting -> ... -> ended
// A round that is abandoned is tried again with a new cohort after a short pause; `round.max_attempts` abandoned ones
// in a row fail the job. Once a stop rule holds, the last committed round is evaluated on final_rows and the job ends.
class JobMachine {
 public:
  struct Options {
    proto::JobConfig config;  // checked, with defaults
    absl::Duration rejoin_grace = absl::Seconds(30);
    JobHistory history;
    // Rounds that the job's privacy budget allows; none follows them. Absent: no budget.
    std::optional<int64_t> privacy_rounds;
    // Seeds selection in place of the job's seed, which everybody may know.
    std::optional<uint64_t> selection_seed;
    // Null: a Roster of the clients that OnReady names, which come back one by one after a restart.
    std::shared_ptr<Candidates> candidates;
  };
  // What shows that a client moves: it counts when it differs from the last one.
  struct Sign {
    int64_t round = 0;
    std::string activity;
    int64_t done = 0;
  };
  enum class Phase { kWaiting, kTraining, kAggregating, kEvaluating, kEnded };

  explicit JobMachine(Options options);

  // Begins, or goes on after a restart.
  JobActions Start(absl::Time now);

  // The client holds the base and laid out the same adapter: it can be asked. Also when it comes back.
  JobActions OnReady(const std::string& client, Candidates::Rows rows, absl::Time now);
  // Its connection broke (it may come back), or it left for good.
  JobActions OnLost(const std::string& client, absl::Time now);
  JobActions OnGone(const std::string& client, absl::Time now);
  // Signs of life and answers. Those for another round than the one under way change nothing.
  JobActions OnProgress(const std::string& client, const Sign& sign, absl::Time now);
  JobActions OnFailure(const std::string& client, int64_t round, const std::string& reason, absl::Time now);
  JobActions OnEvaluation(const proto::Evaluation& evaluation, absl::Time now);

  // Whether an update of this client for this round would be taken. ABORTED: the round is over or given up;
  // FAILED_PRECONDITION: not asked; ALREADY_EXISTS: it is in.
  absl::Status CheckUpdate(const std::string& client, int64_t round) const;
  // A journaled update. Errors as CheckUpdate; then nothing changed.
  absl::StatusOr<JobActions> OnUpdate(const proto::Update& update, absl::Time now);

  // The new attempt could not be journaled: waits and tries again.
  JobActions OnOpenFailed(const absl::Status& why, absl::Time now);
  // Facts of the round being aggregated, for the journal.
  proto::RoundStatus Summary(absl::Time now) const;
  // The aggregate of CommitRound is durable.
  JobActions OnCommitted(const proto::RoundStatus& summary, absl::Time now);
  // It could not be made durable; whoever calls tries again. Shown to people.
  void OnCommitFailed(const absl::Status& why) { message_ = "waiting: " + std::string(why.message()); }

  // Ends the job with this state.
  JobActions End(proto::JobState state, const std::string& message, absl::Time now);
  // Applies what follows from time alone.
  JobActions OnTick(absl::Time now);
  // Tensor bytes moved, counted for the round under way or the one being evaluated.
  void AddBytes(uint64_t up, uint64_t down);

  // state, message, round, phase, best, bytes, seconds_left, rounds, progress of the phase.
  void FillStatus(absl::Time now, proto::JobStatus* status) const;
  Phase phase() const { return phase_; }
  // The evaluation of the last round that comes next; kNo: none.
  Evaluated EvaluationDue(absl::Time now) const;
  const JobHistory& history() const { return history_; }
  const std::string& message() const { return message_; }
  // Rows per client of the evaluation under way; 0: all.
  int64_t planned_rows() const;
  // Last committed round; 0: none.
  int64_t last_round() const { return static_cast<int64_t>(history_.rounds.size()); }

 private:
  JobActions Advance(absl::Time now);
  // Why no further round is trained; "" to go on.
  std::string WhyStop(absl::Time now) const;
  JobActions BeginRound(absl::Time now);
  JobActions BeginEvaluation(Evaluated due, absl::Time now);
  JobActions FinishEvaluation(absl::Time now);
  JobActions Abandon(const std::string& reason, absl::Time now);
  Round MakeRound(std::vector<std::string> cohort) const;
  // Round of the work clients do now: the next one, or when evaluating the last committed one.
  int64_t work_round() const { return phase_ == Phase::kEvaluating ? last_round() : last_round() + 1; }
  JobActions Translate(const RoundActions& actions, absl::Time now);
  double SecondsLeft(absl::Time now) const;
  // Rounds after which the job ends at the latest.
  int64_t rounds_total() const;

  const proto::JobConfig config_;
  const absl::Duration rejoin_grace_;
  const std::optional<int64_t> privacy_rounds_;
  const uint64_t selection_seed_;
  JobHistory history_;
  const bool gathers_;  // its candidates are not all there at once
  const std::shared_ptr<Candidates> candidates_;
  Phase phase_ = Phase::kWaiting;
  proto::JobState state_ = proto::WAITING;
  std::string message_;
  std::string stop_reason_;     // set once: no further round
  std::optional<Round> round_;  // the attempt or evaluation under way, or the last one
  absl::Time phase_started_;
  absl::Time retry_at_ = absl::InfinitePast();
  absl::Time wait_for_clients_until_ = absl::InfinitePast();  // after a restart
  Evaluated evaluating_ = Evaluated::kNo;
  std::map<std::string, proto::Update> updates_;          // of the attempt, by client
  std::map<std::string, proto::Evaluation> evaluations_;  // of the evaluation, by client
  uint64_t bytes_up_ = 0;                                 // of the next round, all attempts
  uint64_t bytes_down_ = 0;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_JOB_JOB_MACHINE_H_
