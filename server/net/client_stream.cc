#include "server/net/client_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/net/grpc_status.h"

namespace weft::server {

ClientStream* ClientStream::Start(Shared* shared, grpc::CallbackServerContext* call) {
  std::shared_ptr<ClientStream> stream(new ClientStream(shared, call));
  stream->self_ = stream;
  stream->StartRead(&stream->incoming_);
  return stream.get();
}

void ClientStream::Send(const proto::ServerMessage& message) {
  MutexLock lock(mutex_);
  if (end_.has_value()) return;
  if (queue_.size() >= kMaxQueuedMessages) {
    EndLocked(absl::ResourceExhaustedError(
        absl::StrCat("client does not read: ", queue_.size(), " messages wait; it may connect again")));
    // The write under way would wait for the client as well.
    call_->TryCancel();
    return;
  }
  queue_.push_back(message);
  AdvanceLocked();
}

void ClientStream::Close(const absl::Status& status) {
  MutexLock lock(mutex_);
  closed_by_coordinator_ = true;
  EndLocked(status);
}

void ClientStream::OnReadDone(bool ok) {
  MutexLock lock(mutex_);
  if (!ok) {
    EndLocked(absl::OkStatus());
    return;
  }
  if (end_.has_value()) return;
  handling_ = true;
  shared_->work->Post([self = shared_from_this()] { self->Handle(); });
}

void ClientStream::OnWriteDone(bool ok) {
  MutexLock lock(mutex_);
  writing_ = false;
  if (ok) {
    queue_.pop_front();
  } else {
    queue_.clear();
    EndLocked(absl::UnavailableError("connection to the client lost"));
  }
  AdvanceLocked();
}

void ClientStream::OnDone() {
  const std::shared_ptr<ClientStream> self = std::move(self_);
  MutexLock lock(mutex_);
  done_ = true;
  // A message still being handled comes first; Handle leaves then.
  if (!handling_) shared_->work->Post([self] { self->Leave(); });
}

void ClientStream::Handle() {
  const absl::Status status = Dispatch();
  {
    MutexLock lock(mutex_);
    handling_ = false;
    if (!status.ok()) EndLocked(status);
    if (!end_.has_value()) StartRead(&incoming_);
    if (!done_) return;
  }
  Leave();
}

absl::Status ClientStream::Dispatch() {
  bool joined;
  {
    MutexLock lock(mutex_);
    if (closed_by_coordinator_) return absl::OkStatus();
    joined = joined_;
  }
  if (!joined) return Join();
  switch (incoming_.kind_case()) {
    case proto::ClientMessage::KIND_NOT_SET:
      return absl::InvalidArgumentError(
          "found a message of unknown kind, expected one of this protocol version; update the client");
    case proto::ClientMessage::kHello:
      return absl::InvalidArgumentError("found a second hello, expected it only as the first message of a stream");
    default:
      return shared_->coordinator->OnMessage(client_id_, instance_, incoming_);
  }
}

absl::Status ClientStream::Join() {
  if (!incoming_.has_hello()) {
    return absl::InvalidArgumentError("found another message first, expected hello as the first message of a stream");
  }
  const proto::Hello& hello = incoming_.hello();
  client_id_ = hello.client_id();
  instance_ = hello.instance();
  const auto send_welcome = [this](const proto::Welcome& welcome) {
    proto::ServerMessage message;
    *message.mutable_welcome() = welcome;
    Send(message);
  };
  MutexLock membership(shared_->membership);
  const absl::Status status = shared_->coordinator->Join(hello, shared_from_this(), send_welcome);
  MutexLock lock(mutex_);
  joined_ = status.ok();
  return status;
}

void ClientStream::Leave() {
  MutexLock membership(shared_->membership);
  {
    MutexLock lock(mutex_);
    if (!joined_ || closed_by_coordinator_) return;
  }
  shared_->coordinator->Leave(client_id_, instance_);
}

void ClientStream::EndLocked(const absl::Status& status) {
  if (end_.has_value()) return;
  end_ = status;
  AdvanceLocked();
}

void ClientStream::AdvanceLocked() {
  if (finished_ || writing_) return;
  if (!queue_.empty()) {
    writing_ = true;
    StartWrite(&queue_.front());
    return;
  }
  if (end_.has_value()) {
    finished_ = true;
    Finish(ToGrpcStatus(*end_));
  }
}

}  // namespace weft::server
