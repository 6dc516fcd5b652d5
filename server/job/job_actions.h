#ifndef WEFT_SERVER_JOB_JOB_ACTIONS_H_
#define WEFT_SERVER_JOB_JOB_ACTIONS_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "proto/status.pb.h"

namespace weft::server {

// What a job wants done, in order.

// A new attempt of a round begins: journal it and start an aggregate. When that fails, drop the rest of the actions and
// tell the job by OnOpenFailed.
struct OpenRound {
  int64_t round = 0;
  int64_t attempt = 1;
  std::vector<std::string> cohort;
};
struct SendTraining {
  std::string client;
  int64_t round = 0;
};
struct SendEvaluation {
  std::string client;
  int64_t round = 0;
  int64_t rows = 0;  // per client; 0: all
};
struct CancelClient {
  std::string client;
  int64_t round = 0;
  std::string reason;
};
// The attempt is given up: forget its updates.
struct DropRound {
  int64_t round = 0;
  std::string reason;
};
// Enough updates are in: finish the aggregate, make it durable, then OnCommitted.
struct CommitRound {
  int64_t round = 0;
};
// The facts of a committed round changed (it was evaluated): journal rounds().back().
struct SaveRound {
  int64_t round = 0;
};
// The job has ended. The last action of a job.
struct EndJob {
  proto::JobState state = proto::FINISHED;
  std::string message;
};

using JobAction =
    std::variant<OpenRound, SendTraining, SendEvaluation, CancelClient, DropRound, CommitRound, SaveRound, EndJob>;
using JobActions = std::vector<JobAction>;

}  // namespace weft::server

#endif  // WEFT_SERVER_JOB_JOB_ACTIONS_H_
