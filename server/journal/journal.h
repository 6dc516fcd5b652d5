#ifndef WEFT_SERVER_JOURNAL_JOURNAL_H_
#define WEFT_SERVER_JOURNAL_JOURNAL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "adapters/layout.h"
#include "proto/job.pb.h"
#include "proto/plan.pb.h"
#include "proto/status.pb.h"
#include "server/job/job_history.h"
#include "server/journal/sqlite.h"
#include "server/journal/state_lock.h"
#include "server/journal/tensor_store.h"

namespace weft::server {

// Values in the tensor store, by hash, and how they are laid out.
struct StoredTensors {
  std::string hash;
  std::shared_ptr<const Layout> layout;
};

// What a round leaves in the tensor store.
struct RoundTensors {
  StoredTensors state;
  std::optional<StoredTensors> base_step;  // of rules that change the base
};

// An accepted update as it was received. Its layout follows from the plan and Update.rank.
struct StoredUpdate {
  std::string hash;
  std::string encoding;  // EncodingName
};

// What is durable of one job.
struct StoredJob {
  std::string id;
  proto::JobConfig config;
  proto::JobState state = proto::WAITING;
  std::string message;
  absl::Time submitted;
  std::optional<absl::Time> ended;
  JobHistory history;
  std::map<int64_t, StoredTensors> states;             // by round, 0: initial; only of kept rounds
  std::map<int64_t, StoredTensors> base_steps;         // by round; kept of all rounds that made one
  std::map<std::string, StoredUpdate> update_tensors;  // of history.open, by client
};

// The durable record from which a killed coordinator goes on: facts in SQLite (WAL, synchronous=FULL: each call that
// returned OK survives a crash of the machine), tensors as files beside it. Every change is one transaction; tensors
// are stored before the facts that name them, and removed after nothing names them any more. Not thread-safe, except
// tensors(). Errors: RESOURCE_EXHAUSTED disk full; then nothing changed and the call may be repeated.
class Journal {
 public:
  static constexpr int64_t kSchemaVersion = 2;

  // `folder` is made when missing. FAILED_PRECONDITION: another process holds it, or a journal of another version
  // (version 1 held whole values where this one holds deltas, and no layouts); DATA_LOSS: damaged.
  static absl::StatusOr<std::unique_ptr<Journal>> Open(const std::string& folder);

  // Jobs in order of submission.
  absl::StatusOr<std::vector<StoredJob>> Load();

  // Number of jobs ever added.
  absl::StatusOr<int64_t> CountJobs();
  absl::Status AddJob(const StoredJob& job);
  // An attempt begins, in place of one still open. `started` is the time of the job's first round.
  absl::Status OpenAttemptOf(const std::string& job, const std::vector<std::string>& cohort, absl::Time started,
                             absl::Time now);
  // An accepted update of the open attempt.
  absl::Status AddUpdate(const std::string& job, const proto::Update& update, const StoredUpdate& tensors);
  // The open attempt is given up; `abandoned` in a row so far.
  absl::Status DropAttempt(const std::string& job, int64_t abandoned);
  // The open attempt becomes a round. States of rounds other than 0, `best` and this one, and the updates, are retired;
  // steps of the base stay.
  absl::Status CommitRound(const std::string& job, const CommittedRound& round, const RoundTensors& tensors,
                           int64_t best);
  // The facts of a committed round changed.
  absl::Status SaveRound(const std::string& job, const CommittedRound& round);
  // The job has ended. The open attempt is given up, and states of rounds other than 0, `best` and the last are
  // retired.
  absl::Status EndJob(const std::string& job, proto::JobState state, const std::string& message, absl::Time now,
                      int64_t best);

  TensorStore& tensors() { return *tensors_; }

 private:
  Journal(StateLock lock, std::unique_ptr<Database> database, std::unique_ptr<TensorStore> tensors)
      : lock_(std::move(lock)), database_(std::move(database)), tensors_(std::move(tensors)) {}

  absl::Status Prepare();
  absl::Status LoadRounds(StoredJob* job);
  absl::Status LoadOpenAttempt(StoredJob* job);
  // Within a transaction; the hashes that are no longer named go to `retired`.
  absl::Status DeleteOpenAttempt(const std::string& job, std::set<std::string>* retired);
  absl::Status ForgetStates(const std::string& job, int64_t best, std::set<std::string>* retired);
  absl::Status Collect(Statement& statement, std::set<std::string>* hashes);
  // After the transaction: removes the files that no row names. One that stays is removed by the next Open.
  void RemoveUnnamed(const std::set<std::string>& retired);

  StateLock lock_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<TensorStore> tensors_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_JOURNAL_JOURNAL_H_
