#ifndef WEFT_SERVER_ROUND_ROUND_H_
#define WEFT_SERVER_ROUND_ROUND_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace weft::server {

// What a round wants done, in order.
struct SendPlan {
  std::string client;
};
// The client's work is no longer wanted. `stalled`: it had stopped moving.
struct CancelWork {
  std::string client;
  std::string reason;
  bool stalled = false;
};
// Enough answers are in. The last action of a round.
struct CloseRound {};
// Too few answers can still come. The last action of a round.
struct AbandonRound {
  std::string reason;
};
using RoundAction = std::variant<SendPlan, CancelWork, CloseRound, AbandonRound>;
using RoundActions = std::vector<RoundAction>;

// One attempt to get one answer (an update, or an evaluation) from each client of a cohort. A pure state machine:
// events in, actions out, time as an argument; no threads, no transport, no clock. Order of calls: Start or Resume
// once, then events in any order; an ended round ignores events.
//
// Liveness is progress: a client whose (activity, done) has not changed for `progress_timeout` is stalled and no longer
// holds the round up, though its answer is still taken. A client whose connection broke keeps its place for
// `rejoin_grace`. The round
//   closes when `close_at` answers are in, or when nobody is waited for any more and at least `min_answers` are in;
//   is abandoned when `min_answers` can't be reached by the clients that are left, or nobody is waited for and fewer
//   are in.
class Round {
 public:
  struct Options {
    std::vector<std::string> cohort;  // no repeats
    int64_t min_answers = 1;          // 0: closes also without any
    int64_t close_at = 1;             // between max(1, min_answers) and the size of the cohort
    absl::Duration progress_timeout = absl::Seconds(60);
    absl::Duration rejoin_grace = absl::Seconds(30);
  };
  enum class State { kOpen, kClosed, kAbandoned };
  enum class MemberState {
    kWorking,  // has its plan
    kLost,     // connection broke; may rejoin until the grace is over
    kDone,     // its answer is in
    kFailed,   // said that it can't, or sent a bad answer
    kGone,     // left for good, or did not come back within the grace
  };

  explicit Round(Options options);

  // Asks everybody.
  RoundActions Start(absl::Time now);
  // Goes on after a restart: the answers of `done` are in, everybody else is lost and may rejoin.
  RoundActions Resume(const std::vector<std::string>& done, absl::Time now);

  // The client (again) has a connection over which it can be asked: it gets its plan (again) unless its answer is in or
  // it has failed. It may also be a new instance that takes the place over.
  RoundActions OnReady(const std::string& client, absl::Time now);
  // The connection broke.
  RoundActions OnLost(const std::string& client, absl::Time now);
  // The client left for good.
  RoundActions OnGone(const std::string& client, absl::Time now);
  // A report of progress; one that says nothing new is no sign of life.
  RoundActions OnProgress(const std::string& client, const std::string& activity, int64_t done, absl::Time now);
  // The client can't answer.
  RoundActions OnFailure(const std::string& client, const std::string& reason, absl::Time now);
  // The client's answer. Errors as CheckAnswer; then nothing changed.
  absl::StatusOr<RoundActions> OnAnswer(const std::string& client, absl::Time now);
  // Applies what follows from time alone.
  RoundActions OnTick(absl::Time now);

  // Whether an answer of this client would be taken. ABORTED: the round is over, or the client left it;
  // FAILED_PRECONDITION: not asked; ALREADY_EXISTS: its answer is in.
  absl::Status CheckAnswer(const std::string& client) const;
  bool Stalled(const std::string& client, absl::Time now) const;

  State state() const { return state_; }
  const Options& options() const { return options_; }
  int64_t answers() const { return Count(MemberState::kDone); }
  int64_t Count(MemberState state) const;
  std::map<std::string, MemberState> Members() const;

 private:
  struct Member {
    MemberState state = MemberState::kWorking;
    absl::Time since;  // last sign of life; for kLost when the connection broke
    std::string activity;
    int64_t done = -1;
    std::string failure;
  };

  void SetState(Member* member, MemberState state);
  Member* Find(const std::string& client);
  // Whether the round waits for this member.
  bool Holds(const Member& member, absl::Time now) const;
  // Too few answers can still come. Who works may answer, stalled or not.
  bool Hopeless(absl::Time now) const;
  // Somebody holds the round up.
  bool Waits(absl::Time now);
  // Ends the round when its rule says so.
  RoundActions Settle(absl::Time now, RoundActions actions = {});
  void CancelWorking(absl::Time now, const std::string& reason, RoundActions* actions) const;
  std::string Shortfall(absl::Time now) const;

  Options options_;
  State state_ = State::kOpen;
  std::map<std::string, Member> members_;
  std::array<int64_t, 5> counts_{};  // of members by state
  std::string waited_for_;           // who held the round up when it was last asked
};

}  // namespace weft::server

#endif  // WEFT_SERVER_ROUND_ROUND_H_
