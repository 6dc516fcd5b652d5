#include "client/testing/fake_coordinator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace weft {
namespace {

absl::Status TakeFirst(std::deque<absl::Status>& failures) {
  if (failures.empty()) return absl::OkStatus();
  absl::Status first = std::move(failures.front());
  failures.pop_front();
  return first;
}

}  // namespace

class FakeCoordinator::FakeLink : public Link {
 public:
  explicit FakeLink(FakeCoordinator* peer) : peer_(peer) {}

  absl::StatusOr<proto::Welcome> Connect(const proto::Hello& hello) override {
    MutexLock lock(peer_->mutex_);
    ++peer_->connect_attempts_;
    peer_->changed_.NotifyAll();
    if (std::exchange(peer_->hang_connect_, false)) {
      peer_->changed_.Wait(lock, [this] { return connection_->closed; });
      return absl::CancelledError("closed");
    }
    WEFT_RETURN_IF_ERROR(TakeFirst(peer_->connect_failures_));
    peer_->hellos_.push_back(hello);
    peer_->connection_ = connection_;
    connection_->welcomed = true;
    peer_->changed_.NotifyAll();
    return proto::Welcome();
  }

  absl::StatusOr<proto::ServerMessage> Receive() override {
    MutexLock lock(peer_->mutex_);
    Connection& own = *connection_;
    peer_->changed_.Wait(lock, [&] { return own.closed || own.end.has_value() || !own.down.empty(); });
    if (own.closed) return absl::CancelledError("closed");
    if (own.end.has_value()) return *own.end;
    proto::ServerMessage message = std::move(own.down.front());
    own.down.pop_front();
    return message;
  }

  absl::Status Send(const proto::ClientMessage& message) override {
    MutexLock lock(peer_->mutex_);
    if (message.has_evaluation() && std::exchange(peer_->break_on_evaluation_, false)) EndLocked();
    WEFT_RETURN_IF_ERROR(CheckLocked());
    peer_->up_.push_back(message);
    peer_->changed_.NotifyAll();
    return absl::OkStatus();
  }

  absl::StatusOr<Adapter> Download(const proto::DownloadRequest& request, const Adapter* held,
                                   std::shared_ptr<const Layout> job_layout, const BytesFunction& progress) override {
    {
      MutexLock lock(peer_->mutex_);
      peer_->requests_.push_back(request);
      WEFT_RETURN_IF_ERROR(CheckLocked());
      WEFT_RETURN_IF_ERROR(TakeFirst(peer_->download_failures_));
      if (request.has_have_round() != (held != nullptr)) return absl::InternalError("have_round without what is held");
    }
    if (!progress(job_layout->size_bytes(), job_layout->size_bytes()))
      return absl::CancelledError("download cancelled");
    MutexLock lock(peer_->mutex_);
    const auto& adapters = request.base_step() ? peer_->base_steps_ : peer_->adapters_;
    const auto found = adapters.find(request.round());
    if (found == adapters.end()) return absl::NotFoundError("no adapter of this round");
    return found->second.Clone();
  }

  absl::Status Upload(const proto::Update& update, const EncodedUpdate& tensors, const std::string& components,
                      const BytesFunction& progress) override {
    {
      MutexLock lock(peer_->mutex_);
      ++peer_->upload_attempts_;
      peer_->changed_.NotifyAll();
      if (std::exchange(peer_->break_on_upload_, false)) EndLocked();
      WEFT_RETURN_IF_ERROR(CheckLocked());
      WEFT_RETURN_IF_ERROR(TakeFirst(peer_->upload_failures_));
    }
    const uint64_t size = tensors.bytes().size();
    if (!progress(size, size)) return absl::CancelledError("upload cancelled");
    MutexLock lock(peer_->mutex_);
    peer_->uploads_.push_back({update, components, tensors.Clone(), tensors.Decode()});
    peer_->changed_.NotifyAll();
    return absl::OkStatus();
  }

  void Close() override {
    MutexLock lock(peer_->mutex_);
    connection_->closed = true;
    peer_->changed_.NotifyAll();
  }

 private:
  void EndLocked() {
    connection_->end = absl::UnavailableError("connection reset");
    peer_->changed_.NotifyAll();
  }
  absl::Status CheckLocked() const {
    if (connection_->closed) return absl::CancelledError("closed");
    return connection_->end.value_or(absl::OkStatus());
  }

  FakeCoordinator* const peer_;
  const std::shared_ptr<Connection> connection_ = std::make_shared<Connection>();
};

std::unique_ptr<Link> FakeCoordinator::MakeLink() { return std::make_unique<FakeLink>(this); }

void FakeCoordinator::FailConnect(absl::Status status) {
  MutexLock lock(mutex_);
  connect_failures_.push_back(std::move(status));
}

void FakeCoordinator::FailDownload(absl::Status status) {
  MutexLock lock(mutex_);
  download_failures_.push_back(std::move(status));
}

void FakeCoordinator::FailUpload(absl::Status status) {
  MutexLock lock(mutex_);
  upload_failures_.push_back(std::move(status));
}

void FakeCoordinator::HangConnect() {
  MutexLock lock(mutex_);
  hang_connect_ = true;
}

void FakeCoordinator::BreakOnUpload() {
  MutexLock lock(mutex_);
  break_on_upload_ = true;
}

void FakeCoordinator::BreakOnEvaluation() {
  MutexLock lock(mutex_);
  break_on_evaluation_ = true;
}

void FakeCoordinator::SetAdapter(int64_t round, Adapter adapter) {
  MutexLock lock(mutex_);
  adapters_.insert_or_assign(round, std::move(adapter));
}

void FakeCoordinator::SetBaseStep(int64_t round, Adapter step) {
  MutexLock lock(mutex_);
  base_steps_.insert_or_assign(round, std::move(step));
}

FakeCoordinator::Connection* FakeCoordinator::Standing() const {
  const bool stands =
      connection_ != nullptr && connection_->welcomed && !connection_->closed && !connection_->end.has_value();
  return stands ? connection_.get() : nullptr;
}

void FakeCoordinator::Push(const proto::ServerMessage& message) {
  MutexLock lock(mutex_);
  changed_.Wait(lock, [this] { return Standing() != nullptr; });
  Standing()->down.push_back(message);
  changed_.NotifyAll();
}

void FakeCoordinator::Break(const absl::Status& status) {
  MutexLock lock(mutex_);
  changed_.Wait(lock, [this] { return Standing() != nullptr; });
  Standing()->end = status;
  changed_.NotifyAll();
}

proto::Hello FakeCoordinator::WaitForConnect(int count) {
  MutexLock lock(mutex_);
  changed_.Wait(lock, [&] { return static_cast<int>(hellos_.size()) >= count; });
  return hellos_[count - 1];
}

void FakeCoordinator::WaitForConnectAttempts(int count) {
  MutexLock lock(mutex_);
  changed_.Wait(lock, [&] { return connect_attempts_ >= count; });
}

proto::ClientMessage FakeCoordinator::WaitFor(proto::ClientMessage::KindCase kind) {
  MutexLock lock(mutex_);
  const auto find = [&] {
    return std::find_if(up_.begin(), up_.end(), [&](const auto& m) { return m.kind_case() == kind; });
  };
  changed_.Wait(lock, [&] { return find() != up_.end(); });
  const auto found = find();
  proto::ClientMessage message = *found;
  up_.erase(found);
  return message;
}

FakeCoordinator::Upload FakeCoordinator::WaitForUpload() {
  MutexLock lock(mutex_);
  changed_.Wait(lock, [this] { return !uploads_.empty(); });
  Upload upload = std::move(uploads_.front());
  uploads_.pop_front();
  return upload;
}

void FakeCoordinator::WaitForUploadAttempts(int count) {
  MutexLock lock(mutex_);
  changed_.Wait(lock, [&] { return upload_attempts_ >= count; });
}

int FakeCoordinator::downloads() const {
  MutexLock lock(mutex_);
  return static_cast<int>(requests_.size());
}

std::vector<proto::DownloadRequest> FakeCoordinator::requests() const {
  MutexLock lock(mutex_);
  return requests_;
}

int FakeCoordinator::upload_attempts() const {
  MutexLock lock(mutex_);
  return upload_attempts_;
}

int FakeCoordinator::pending(proto::ClientMessage::KindCase kind) const {
  MutexLock lock(mutex_);
  return static_cast<int>(std::count_if(up_.begin(), up_.end(), [&](const auto& m) { return m.kind_case() == kind; }));
}

}  // namespace weft
