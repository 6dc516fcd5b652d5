#ifndef WEFT_SERVER_JOB_JOB_HISTORY_H_
#define WEFT_SERVER_JOB_JOB_HISTORY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/job.pb.h"
#include "proto/plan.pb.h"
#include "proto/status.pb.h"

namespace weft::server {

// How far a committed round has been evaluated. Values are journaled.
enum class Evaluated { kNo = 0, kCapped = 1, kFinal = 2 };

struct CommittedRound {
  proto::RoundStatus status;
  Evaluated evaluated = Evaluated::kNo;
};

// The attempt under way when the coordinator went down.
struct OpenAttempt {
  std::vector<std::string> cohort;
  std::vector<proto::Update> updates;  // accepted ones
  absl::Time started;
};

// What a job has behind it; what a restart goes on from.
struct JobHistory {
  std::optional<absl::Time> started;   // of the first round
  std::vector<CommittedRound> rounds;  // 1, 2, ...
  int64_t abandoned = 0;               // attempts of the next round given up so far
  std::optional<OpenAttempt> open;     // of the next round
};

// The round with the highest accuracy, the earliest of equals; when none was evaluated the last committed one; 0 when
// there is none.
int64_t BestRound(const std::vector<CommittedRound>& rounds);

// Why no further round is trained ("" to go on): rounds, target accuracy, patience, or time since `started`.
std::string StopReason(const proto::StopConfig& stop, const JobHistory& history, absl::Time now);

// The evaluation the last committed round still needs; kNo for none. `last`: no round follows it. A final evaluation
// over as many rows as the capped one would give the same counts and is left out.
Evaluated EvaluationDue(const proto::EvaluationConfig& config, const CommittedRound& round, bool last);

// Median wall time of a round with its evaluation over the last (up to five) rounds; nothing when none is committed.
std::optional<absl::Duration> TypicalRound(const std::vector<CommittedRound>& rounds);

}  // namespace weft::server

#endif  // WEFT_SERVER_JOB_JOB_HISTORY_H_
