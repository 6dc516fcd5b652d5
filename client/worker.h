#ifndef WEFT_CLIENT_WORKER_H_
#define WEFT_CLIENT_WORKER_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/backoff.h"
#include "client/link.h"
#include "client/local_update.h"
#include "client/state_store.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "proto/service.pb.h"
#include "training/data/shard.h"
#include "training/trainer.h"

namespace weft {

// Does what the coordinator asks for, one thing after the other on its own thread, so that the thread that receives
// never waits for training: answers job offers, carries out plans (download, train, upload; what is around
// the training is LocalUpdate's) and evaluation plans. What is kept of a job between rounds changes when the
// coordinator has accepted the update. Outlives connections: training goes on while the coordinator is away, and a
// finished update is kept and sent again when the same plan comes again. Thread-safe.
class Worker {
 public:
  struct Options {
    std::string client_id;
    Trainer* trainer = nullptr;        // outlives the worker; used on its thread only
    const DataFolder* data = nullptr;  // outlives the worker
    const Clock* clock = nullptr;      // outlives the worker; paces progress messages
    StateStore* states = nullptr;      // outlives the worker
    int64_t max_rank = 0;              // most components of a LoRA factor trained here; 0: as many as the job has
    // Between attempts of one transfer while the connection stands.
    absl::Duration retry_min = absl::Milliseconds(200);
    absl::Duration retry_max = absl::Seconds(10);
    uint64_t seed = 0;  // of the jitter
  };

  explicit Worker(const Options& options);
  // Stops.
  ~Worker();

  // A new connection, or nullptr when it is lost. What was asked for on the old one and not begun is forgotten: the
  // coordinator asks again.
  void SetLink(std::shared_ptr<Link> link);
  // Any message of the coordinator but welcome. Returns at once.
  void Handle(const proto::ServerMessage& message);
  // Cancels what is under way and takes nothing new. Returns at once; idempotent.
  void Cancel();
  // Cancel, then waits for the trainer to return.
  void Stop();

 private:
  // A message being carried out.
  struct Task {
    proto::ServerMessage message;
    uint64_t connection = 0;  // the latest on which it was asked for; guarded by mutex_
    std::atomic<bool> cancelled = false;
  };
  // An offer that was answered.
  struct Job {
    proto::JobOffer offer;
    proto::JobReply reply;
    std::shared_ptr<const Layout> layout;  // null when refused
  };
  // The last broadcast state, of which the next download need not bring what has not changed.
  struct Download {
    std::string job_id;
    int64_t round;
    std::shared_ptr<const Adapter> state;
  };
  struct TrainedUpdate {
    proto::Plan plan;
    LocalResult result;
  };
  struct Evaluated {
    proto::EvaluationPlan plan;
    proto::Evaluation evaluation;
  };
  using BytesFunction = Link::BytesFunction;
  using Attempt = std::function<absl::Status(Link&)>;

  // With mutex_ held. Without `round`: everything of the job.
  void CancelWork(const std::string& job_id, std::optional<int64_t> round);
  void Enqueue(const proto::ServerMessage& message);
  // Answers an offer that was answered before; false when it is new.
  bool AnswerAgain(const proto::JobOffer& offer);

  // On the worker's thread.
  void Run();
  void Execute(Task& task);
  void Finish(Task& task, const absl::Status& status);
  void AnswerOffer(Task& task);
  absl::Status CarryOut(Task& task, const proto::Plan& plan);
  absl::Status Train(Task& task, const proto::Plan& plan);
  absl::Status CarryOut(Task& task, const proto::EvaluationPlan& plan);
  absl::StatusOr<proto::Evaluation> Evaluate(Task& task, const proto::EvaluationPlan& plan);
  absl::StatusOr<LocalJob> JobOf(const std::string& job_id);
  // The broadcast state of a committed round, downloaded unless it is the last one downloaded.
  absl::StatusOr<std::shared_ptr<const Adapter>> Fetch(Task& task, const proto::DownloadRequest& request,
                                                       const BytesFunction& report);
  // Brings the trainer's base to the steps 1 to request.round, the last of which is in `state`; the coordinator is
  // asked for those missed.
  absl::Status StepBase(Task& task, const proto::DownloadRequest& request, const Adapter& state,
                        const BytesFunction& report);
  // The coordinator has accepted the update.
  void Commit(const TrainedUpdate& trained);
  void ForgetJob(const std::string& job_id);

  // Runs `attempt`, again with waits while it fails in a way that heals and the task's connection stands. UNAVAILABLE:
  // the connection is lost.
  absl::Status WithLink(Task& task, const Attempt& attempt);
  absl::Status SendMessage(Task& task, const proto::ClientMessage& message);
  // The link on which the task was last asked for; nullptr when it is gone.
  std::shared_ptr<Link> LinkOf(const Task& task);
  // Reports to the coordinator at most every `interval_ms`; the result says whether the task is still wanted.
  BytesFunction Reporter(Task& task, proto::Progress progress, uint32_t interval_ms);

  const Options options_;

  Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<Link> link_;
  uint64_t connection_ = 0;
  std::deque<std::pair<proto::ServerMessage, uint64_t>> queue_;  // with the connection it came on
  Task* current_ = nullptr;
  std::map<std::string, Job> jobs_;
  bool stopping_ = false;

  // Of the worker's thread alone.
  std::optional<Download> downloaded_;
  std::optional<TrainedUpdate> trained_;
  std::optional<Evaluated> evaluated_;

  std::thread thread_;
};

}  // namespace weft

#endif  // WEFT_CLIENT_WORKER_H_
