#include "client/daemon.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "proto/schema.h"

namespace weft {
namespace {

// Said by the coordinator in answer to hello: the same hello would get the same answer.
bool IsFinal(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kUnimplemented:
      return true;
    default:
      return false;
  }
}

Worker::Options WorkerOptions(const Daemon::Options& options) {
  return {.client_id = options.client_id,
          .trainer = options.trainer,
          .data = options.data,
          .clock = options.clock,
          .states = options.states,
          .max_rank = options.max_rank,
          .retry_min = options.reconnect_min,
          .retry_max = options.reconnect_max,
          .seed = options.seed};
}

}  // namespace

Daemon::Daemon(Options options)
    : options_(std::move(options)),
      backoff_(options_.reconnect_min, options_.reconnect_max, options_.seed),
      worker_(WorkerOptions(options_)) {}

absl::Status Daemon::Run() {
  while (true) {
    absl::StatusOr<std::unique_ptr<Link>> made = options_.make_link();
    absl::Status status = made.status();
    const std::shared_ptr<Link> link = made.ok() ? *std::move(made) : nullptr;
    if (link != nullptr) status = Serve(link);
    {
      MutexLock lock(mutex_);
      link_ = nullptr;
      if (stopping_) break;
    }
    const bool refused = link == nullptr || IsFinal(status);
    if (refused) {
      worker_.Stop();
      return status;
    }
    const absl::Duration wait = backoff_.Next();
    Logger("client")->warn("event=disconnected client={} retry_in={} reason=\"{}\"", options_.client_id,
                           absl::FormatDuration(absl::Trunc(wait, absl::Milliseconds(1))),
                           std::string(status.message()));
    MutexLock lock(mutex_);
    if (changed_.WaitFor(lock, wait, [this] { return stopping_; })) break;
  }
  worker_.Stop();
  return absl::OkStatus();
}

void Daemon::Stop(const std::string& reason) {
  std::shared_ptr<Link> link;
  bool welcomed;
  {
    MutexLock lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    link = link_;
    welcomed = welcomed_;
    changed_.NotifyAll();
  }
  worker_.Cancel();
  if (link == nullptr) return;
  if (welcomed) {
    proto::ClientMessage message;
    message.mutable_goodbye()->set_reason(reason);
    link->Send(message).IgnoreError();  // a coordinator that is gone needs no goodbye
  }
  link->Close();
}

absl::Status Daemon::Serve(const std::shared_ptr<Link>& link) {
  if (!Adopt(link)) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(const proto::Welcome welcome, link->Connect(MakeHello()));
  {
    MutexLock lock(mutex_);
    welcomed_ = true;
    if (stopping_) return absl::OkStatus();
  }
  Logger("client")->info("event=connected client={} coordinator_version={}", options_.client_id, welcome.version());
  worker_.SetLink(link);
  absl::StatusOr<proto::ServerMessage> message = link->Receive();
  for (; message.ok(); message = link->Receive()) worker_.Handle(*message);
  worker_.SetLink(nullptr);
  link->Close();
  // A coordinator that went away is dialled soon again; one that ended the stream over something said here, with
  // growing waits.
  if (!IsFinal(message.status())) backoff_.Reset();
  return absl::UnavailableError(message.status().message());
}

proto::Hello Daemon::MakeHello() const {
  proto::Hello hello;
  hello.set_protocol_version(proto::kProtocolVersion);
  hello.set_client_id(options_.client_id);
  hello.set_instance(absl::StrFormat("%016x", options_.seed));
  hello.set_base_hash(options_.trainer->base_hash());
  hello.set_train_examples(options_.data->rows("train"));
  hello.set_test_examples(options_.data->rows("test"));
  hello.set_device(options_.trainer->device());
  hello.set_version(options_.version);
  return hello;
}

bool Daemon::Adopt(std::shared_ptr<Link> link) {
  MutexLock lock(mutex_);
  link_ = std::move(link);
  welcomed_ = false;
  return !stopping_;
}

}  // namespace weft
