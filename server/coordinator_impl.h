#ifndef WEFT_SERVER_COORDINATOR_IMPL_H_
#define WEFT_SERVER_COORDINATOR_IMPL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "server/broadcast/broadcast.h"
#include "server/coordinator.h"
#include "server/fold.h"
#include "server/job/job_machine.h"
#include "server/journal/journal.h"
#include "server/submit_check.h"

namespace weft::server {

// A job of any state. Jobs that wait for their turn have a machine that was not started.
struct Job {
  StoredJob stored;    // without history: that is the machine's
  CheckedJob checked;  // layout and rule are null for an ended job that could not run here any more
  std::unique_ptr<JobMachine> machine;
  // Of the running job.
  std::shared_ptr<const Broadcast> current;   // of the last committed round
  std::map<int64_t, RoleHashes> role_hashes;  // of committed rounds, as far as they are known; 0: initial
  std::vector<std::string> roles_local;       // of evaluation plans
  std::shared_ptr<Fold> fold;                 // of the attempt under way
};

struct Client {
  proto::Hello hello;
  std::shared_ptr<ClientChannel> channel;  // null: not connected
  std::string activity = "idle";
  std::string refused;   // why it can't work on the running job
  int64_t max_rank = 0;  // of the running job, as it replied; 0: all
  int64_t steps_done = 0;
  int64_t steps_total = 0;
  double tokens_per_second = 0;
  uint64_t bytes_up = 0;
  uint64_t bytes_down = 0;
  absl::Time last_seen;
};

struct Ticket {
  proto::Update update;
  uint64_t reserved_bytes = 0;
  uint64_t received_bytes = 0;
  bool replaced = false;  // a newer upload of the same client took its place
};

// One mutex guards everything; it is let go of while tensors are checked, written, folded and finished. Every public
// call that may change something ends in Settle, which commits a round that has become complete.
class CoordinatorImpl final : public Coordinator {
 public:
  CoordinatorImpl(const Options& options, std::unique_ptr<Journal> journal);
  ~CoordinatorImpl() override;
  // Loads the journal, goes on with the running job and starts the thread. Call once, first.
  absl::Status Resume();

  absl::Status Join(const proto::Hello& hello, std::shared_ptr<ClientChannel> channel,
                    const std::function<void(const proto::Welcome&)>& send_welcome) override;
  absl::Status OnMessage(const std::string& client_id, const std::string& instance,
                         const proto::ClientMessage& message) override;
  void Leave(const std::string& client_id, const std::string& instance) override;
  absl::StatusOr<StateDownload> Download(const proto::DownloadRequest& request) override;
  absl::StatusOr<UploadTicket> BeginUpload(const proto::UploadStart& start) override;
  absl::Status UploadProgress(uint64_t ticket_id, uint64_t bytes) override;
  absl::Status FinishUpload(uint64_t ticket_id, EncodedUpdate update) override;
  void AbandonUpload(uint64_t ticket_id, const absl::Status& why) override;

  absl::StatusOr<std::string> Submit(proto::JobConfig config, std::optional<Adapter> warm_start) override;
  absl::StatusOr<std::shared_ptr<const Layout>> LayoutFor(const proto::JobConfig& config) override;
  absl::StatusOr<proto::CoordinatorStatus> GetStatus(const std::string& job_id) override;
  uint64_t status_version() override;
  uint64_t WaitForChange(uint64_t seen, absl::Duration timeout) override;
  absl::StatusOr<proto::JobStatus> Stop(const std::string& job_id) override;
  absl::StatusOr<ExportedAdapter> Export(const std::string& job_id, const std::string& which) override;
  void Tick() override;
  void Shutdown() override;

 private:
  // All below with mutex_ held; those that take the lock let go of it for a while.

  // coordinator_clients.cc
  void Offer(const std::string& id, Client& client);
  void Refuse(const std::string& id, Client& client, const std::string& reason);
  void OnJobReply(const std::string& id, Client& client, const proto::JobReply& reply);
  void OnProgress(const std::string& id, Client& client, const proto::Progress& progress);
  absl::Status OnEvaluation(const std::string& id, Client& client, const proto::Evaluation& evaluation);
  void OnFailure(const std::string& id, Client& client, const proto::Failure& failure);
  void OnGoodbye(const std::string& id, Client& client, const proto::Goodbye& goodbye);
  void SendTo(const std::string& id, const proto::ServerMessage& message);

  // coordinator_uploads.cc
  absl::StatusOr<StateDownload> BaseStep(Job& job, int64_t round);
  absl::StatusOr<UpdateDecoder::Options> CheckUpload(const proto::UploadStart& start);
  absl::Status CheckWanted(const proto::Update& update);
  absl::Status CheckTicket(uint64_t ticket_id);
  absl::Status ReserveMemory(MutexLock& lock, const proto::Update& update, uint64_t bytes);
  absl::Status TakeIn(MutexLock& lock, uint64_t ticket_id, const std::shared_ptr<Fold>& fold, EncodedUpdate tensors);
  void FoldWaiting(MutexLock& lock, Fold& fold);
  void ShowActivity(const std::string& client_id, const char* activity);
  void GiveBack(uint64_t bytes);
  void Accepted(const proto::Update& update);
  void FailUpload(const proto::Update& update, const absl::Status& why);
  void DropTicket(uint64_t ticket_id);

  // coordinator_rounds.cc
  void Apply(JobActions actions);
  absl::Status OpenAttemptOf(const OpenRound& open, std::shared_ptr<Fold> fold);
  // For a round of at most `updates` updates after the last committed one.
  absl::StatusOr<std::shared_ptr<Fold>> MakeFold(const Job& job, int64_t updates) const;
  // Before the rule.
  proto::Plan PlanOf(const Job& job, int64_t round, const std::string& client) const;
  void SendTrainingPlan(const SendTraining& action);
  void SendEvaluationPlan(const SendEvaluation& action);
  void SendCancel(const CancelClient& action);
  void GiveUp(const DropRound& drop);
  void Save();
  void FailRunning(const Fold& fold, const absl::Status& why);
  void Settle(MutexLock& lock);
  void Commit(MutexLock& lock);
  // Values of a finished round, kept until it is recorded that they are needed.
  struct Stored {
    RoundTensors tensors;
    std::vector<TensorStore::Pin> pins;
  };
  // Without the lock.
  absl::StatusOr<Stored> Store(Fold& fold);
  absl::Status Record(const Fold& fold, const RoundTensors& tensors);

  // coordinator_jobs.cc
  absl::Status LoadJobs();
  void StartNextJob();
  absl::Status PrepareRunning(Job& job);
  absl::Status LoadRoleHashes(Job& job);
  absl::Status FoldAgain(Job& job, const OpenAttempt& open);
  std::unique_ptr<JobMachine> MakeMachine(const proto::JobConfig& config, const CheckedJob& checked,
                                          JobHistory history) const;
  // The state before round 1: from a warm start, or seeded.
  absl::StatusOr<Adapter> InitialState(const CheckedJob& checked, std::optional<Adapter> warm_start) const;
  int64_t KnownCohort(const proto::JobConfig& config);
  void EndRunning(const EndJob& end);
  void RecordEnd(Job& job, const EndJob& end);
  void KeepOnly(Job& job, int64_t best);
  // Without the lock.
  absl::StatusOr<Adapter> ReadExport(const CheckedJob& checked, const StoredTensors& state,
                                     const std::vector<StoredTensors>& steps, proto::JobConfig* config) const;
  Job* FindJob(const std::string& id);

  // coordinator_status.cc
  static proto::PrivacyStatus PrivacyOf(const Job& job);
  proto::JobStatus StatusOf(const Job& job) const;
  proto::ClientStatus StatusOf(const std::string& id, const Client& client) const;
  void Changed();

  absl::Time Now() const { return options_.clock->Now(); }
  void RunTicks();

  const Options options_;
  const absl::Time started_;
  Mutex mutex_;
  CondVar changed_;  // the version grew, upload memory came free, or shutdown
  CondVar ended_;    // shutdown
  std::unique_ptr<Journal> journal_;
  std::vector<std::unique_ptr<Job>> jobs_;  // in order of submission
  Job* running_ = nullptr;
  std::map<std::string, Client> clients_;
  std::map<uint64_t, Ticket> tickets_;
  uint64_t next_ticket_ = 1;
  uint64_t reserved_bytes_ = 0;
  std::multiset<std::pair<std::string, int64_t>> waiting_uploads_;  // (client, round) that wait for upload memory
  int64_t ticks_ = 0;
  uint64_t version_ = 1;
  bool shut_down_ = false;
  std::thread ticker_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_COORDINATOR_IMPL_H_
