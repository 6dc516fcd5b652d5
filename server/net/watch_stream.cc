#include "server/net/watch_stream.h"

#include "server/net/grpc_status.h"

namespace weft::server {
namespace {

bool Ended(const proto::JobStatus& job) {
  return job.state() == proto::FINISHED || job.state() == proto::STOPPED || job.state() == proto::FAILED;
}

}  // namespace

WatchStream* WatchStream::Start(Options options) {
  auto* stream = new WatchStream(std::move(options));
  // Listens before it first reads, so that no change falls in between. It can't be done before this returns.
  stream->options_.feed->Add(stream);
  MutexLock lock(stream->mutex_);
  stream->AdvanceLocked();
  return stream;
}

void WatchStream::OnChange() {
  MutexLock lock(mutex_);
  stale_ = true;
  AdvanceLocked();
}

void WatchStream::OnStop() { End(absl::UnavailableError("coordinator is shutting down")); }

void WatchStream::OnCancel() { End(absl::CancelledError("watcher is gone")); }

void WatchStream::Produce() {
  absl::StatusOr<proto::CoordinatorStatus> status = options_.coordinator->GetStatus(options_.job_id);
  if (!status.ok()) {
    End(status.status());
    MutexLock lock(mutex_);
    busy_ = false;
    AdvanceLocked();
    return;
  }
  message_ = *std::move(status);
  StartWrite(&message_);
}

void WatchStream::OnWriteDone(bool ok) {
  const bool over = !options_.job_id.empty() && message_.jobs_size() == 1 && Ended(message_.jobs(0));
  if (!ok) {
    End(absl::CancelledError("watcher is gone"));
  } else if (over) {
    End(absl::OkStatus());
  }
  MutexLock lock(mutex_);
  busy_ = false;
  AdvanceLocked();
}

void WatchStream::OnDone() {
  options_.feed->Remove(this);
  // Whoever called Finish still holds the mutex perhaps.
  { MutexLock lock(mutex_); }
  delete this;
}

void WatchStream::End(const absl::Status& status) {
  MutexLock lock(mutex_);
  if (!end_.has_value()) end_ = status;
  AdvanceLocked();
}

void WatchStream::AdvanceLocked() {
  if (busy_ || finished_) return;
  if (end_.has_value()) {
    finished_ = true;
    Finish(ToGrpcStatus(*end_));
  } else if (stale_) {
    stale_ = false;
    busy_ = true;
    options_.work->Post([this] { Produce(); });
  }
}

}  // namespace weft::server
