#ifndef WEFT_SERVER_NET_TESTING_FAKE_COORDINATOR_H_
#define WEFT_SERVER_NET_TESTING_FAKE_COORDINATOR_H_

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/mutex.h"
#include "proto/schema.h"
#include "server/coordinator.h"

namespace weft::server {

// A coordinator without rules: keeps who is connected, records what it is told in `events`, answers with what the test
// set. Thread-safe.
class FakeCoordinator final : public Coordinator {
 public:
  explicit FakeCoordinator(std::shared_ptr<const Layout> layout) : layout_(std::move(layout)) {}

  // Answers; set before the call that should get them.
  absl::Status message_answer, download_answer, begin_answer, progress_answer, finish_answer, submit_answer,
      layout_answer, status_answer, stop_answer, export_answer;
  std::shared_ptr<const Adapter> adapter;  // of Download and Export
  std::vector<std::string> roles;          // of Download; empty: all
  proto::EncodingConfig encoding;          // of the uploads that are expected
  int64_t keep_components = 0;
  proto::JobState job_state = proto::RUNNING;

  // What happened so far, one line each.
  std::vector<std::string> events() {
    MutexLock lock(mutex_);
    return events_;
  }
  // Waits until `event` has happened.
  void WaitFor(const std::string& event) {
    MutexLock lock(mutex_);
    changed_.Wait(lock, [&] { return std::find(events_.begin(), events_.end(), event) != events_.end(); });
  }
  std::shared_ptr<ClientChannel> Channel(const std::string& client_id) {
    MutexLock lock(mutex_);
    return clients_.at(client_id).channel;
  }
  std::optional<std::vector<float>> received() {
    MutexLock lock(mutex_);
    return received_;
  }
  // A change that watchers see.
  void Change(proto::JobState state) {
    MutexLock lock(mutex_);
    job_state = state;
    ++version_;
    changed_.NotifyAll();
  }

  absl::Status Join(const proto::Hello& hello, std::shared_ptr<ClientChannel> channel,
                    const std::function<void(const proto::Welcome&)>& send_welcome) override {
    MutexLock lock(mutex_);
    if (hello.protocol_version() != proto::kProtocolVersion) {
      return absl::FailedPreconditionError(absl::StrCat("protocol version: found ", hello.protocol_version(),
                                                        ", expected ", proto::kProtocolVersion, "; update the client"));
    }
    Client& client = clients_[hello.client_id()];
    if (client.channel != nullptr && client.instance != hello.instance()) {
      return absl::AlreadyExistsError(absl::StrCat("client id \"", hello.client_id(), "\" is in use"));
    }
    if (client.channel != nullptr) client.channel->Close(absl::AbortedError("replaced by a newer connection"));
    client = {hello.instance(), channel};
    proto::Welcome welcome;
    welcome.set_protocol_version(proto::kProtocolVersion);
    send_welcome(welcome);
    Record("join ", hello.client_id());
    return absl::OkStatus();
  }
  absl::Status OnMessage(const std::string& client_id, const std::string& instance,
                         const proto::ClientMessage& message) override {
    MutexLock lock(mutex_);
    Record("message ", client_id, " ", instance, " ", static_cast<int>(message.kind_case()), " ",
           message.progress().done());
    return message_answer;
  }
  void Leave(const std::string& client_id, const std::string&) override {
    MutexLock lock(mutex_);
    clients_[client_id].channel = nullptr;
    Record("leave ", client_id);
  }
  absl::StatusOr<StateDownload> Download(const proto::DownloadRequest& request) override {
    MutexLock lock(mutex_);
    Record("download ", request.job_id(), " ", request.round(), request.base_step() ? " step" : "");
    if (!download_answer.ok()) return download_answer;
    return StateDownload{adapter, adapter->layout_ptr(), layout_, roles};
  }
  absl::StatusOr<UploadTicket> BeginUpload(const proto::UploadStart& start) override {
    MutexLock lock(mutex_);
    Record("begin ", start.update().client_id());
    if (!begin_answer.ok()) return begin_answer;
    return UploadTicket{++tickets_, {layout_, encoding, keep_components}};
  }
  absl::Status UploadProgress(uint64_t, uint64_t bytes) override {
    MutexLock lock(mutex_);
    Record("progress ", bytes);
    return progress_answer;
  }
  absl::Status FinishUpload(uint64_t ticket_id, EncodedUpdate update) override {
    const Adapter values = update.Decode();
    MutexLock lock(mutex_);
    Record("finish ", ticket_id);
    received_.emplace(values.values().begin(), values.values().end());
    return finish_answer;
  }
  void AbandonUpload(uint64_t ticket_id, const absl::Status& why) override {
    MutexLock lock(mutex_);
    Record("abandon ", ticket_id, " ", absl::StatusCodeToString(why.code()));
  }

  absl::StatusOr<std::string> Submit(proto::JobConfig config, std::optional<Adapter> warm_start) override {
    MutexLock lock(mutex_);
    Record("submit ", config.name(), warm_start.has_value() ? " warm" : "");
    if (!submit_answer.ok()) return submit_answer;
    if (warm_start.has_value()) received_.emplace(warm_start->values().begin(), warm_start->values().end());
    return std::string("job-1");
  }
  absl::StatusOr<std::shared_ptr<const Layout>> LayoutFor(const proto::JobConfig&) override {
    if (!layout_answer.ok()) return layout_answer;
    return layout_;
  }
  absl::StatusOr<proto::CoordinatorStatus> GetStatus(const std::string& job_id) override {
    MutexLock lock(mutex_);
    if (!status_answer.ok()) return status_answer;
    proto::CoordinatorStatus status;
    proto::JobStatus* job = status.add_jobs();
    job->set_job_id(job_id);
    job->set_state(job_state);
    return status;
  }
  uint64_t status_version() override {
    MutexLock lock(mutex_);
    return version_;
  }
  uint64_t WaitForChange(uint64_t seen, absl::Duration timeout) override {
    MutexLock lock(mutex_);
    changed_.WaitFor(lock, timeout, [&] { return version_ > seen || shut_down_; });
    return version_;
  }
  absl::StatusOr<proto::JobStatus> Stop(const std::string& job_id) override {
    if (!stop_answer.ok()) return stop_answer;
    proto::JobStatus job;
    job.set_job_id(job_id);
    job.set_state(proto::STOPPED);
    return job;
  }
  absl::StatusOr<ExportedAdapter> Export(const std::string& job_id, const std::string& which) override {
    if (!export_answer.ok()) return export_answer;
    ExportedAdapter exported{{}, adapter};
    exported.info.set_job_id(absl::StrCat(job_id, "/", which));
    return exported;
  }
  void Tick() override {}
  void Shutdown() override {
    MutexLock lock(mutex_);
    shut_down_ = true;
    changed_.NotifyAll();
    for (auto& [id, client] : clients_) {
      if (client.channel != nullptr) client.channel->Close(absl::UnavailableError("coordinator is shutting down"));
    }
  }

 private:
  struct Client {
    std::string instance;
    std::shared_ptr<ClientChannel> channel;
  };

  // With mutex_ held.
  template <typename... Parts>
  void Record(const Parts&... parts) {
    events_.push_back(absl::StrCat(parts...));
    changed_.NotifyAll();
  }

  const std::shared_ptr<const Layout> layout_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> events_;
  std::map<std::string, Client> clients_;
  std::optional<std::vector<float>> received_;
  uint64_t tickets_ = 0;
  uint64_t version_ = 1;
  bool shut_down_ = false;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_TESTING_FAKE_COORDINATOR_H_
