#include "client/stall_guard.h"

namespace weft {

StallGuard::StallGuard(absl::Duration timeout) : timeout_(timeout), thread_([this] { Run(); }) {}

StallGuard::~StallGuard() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

StallGuard::Call::Call(StallGuard* guard, grpc::ClientContext* context)
    : guard_(guard), context_(context), last_progress_(std::chrono::steady_clock::now()) {
  MutexLock lock(guard_->mutex_);
  guard_->calls_.insert(this);
  if (guard_->cancelled_) context_->TryCancel();
}

StallGuard::Call::~Call() {
  MutexLock lock(guard_->mutex_);
  guard_->calls_.erase(this);
}

void StallGuard::Call::Touch() {
  MutexLock lock(guard_->mutex_);
  last_progress_ = std::chrono::steady_clock::now();
}

void StallGuard::CancelAll() {
  MutexLock lock(mutex_);
  cancelled_ = true;
  for (Call* call : calls_) call->context_->TryCancel();
}

void StallGuard::Run() {
  MutexLock lock(mutex_);
  while (!changed_.WaitFor(lock, timeout_ / 4, [this] { return stopping_; })) {
    const auto now = std::chrono::steady_clock::now();
    for (Call* call : calls_) {
      if (absl::FromChrono(now - call->last_progress_) < timeout_) continue;
      call->stalled_ = true;
      call->context_->TryCancel();
    }
  }
}

}  // namespace weft
