#include "server/net/stall_watch.h"

namespace weft::server {

using SteadyClock = std::chrono::steady_clock;

void StallWatch::Entry::Expect() {
  MutexLock lock(watch_->mutex_);
  since_ = SteadyClock::now();
  watch_->expecting_.insert(this);
}

void StallWatch::Entry::Pause() {
  MutexLock lock(watch_->mutex_);
  watch_->expecting_.erase(this);
}

bool StallWatch::Entry::stalled() const {
  MutexLock lock(watch_->mutex_);
  return stalled_;
}

StallWatch::StallWatch(absl::Duration limit) : limit_(limit), thread_([this] { Run(); }) {}

StallWatch::~StallWatch() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void StallWatch::Run() {
  MutexLock lock(mutex_);
  // A stall is found at most a quarter of the limit late.
  while (!changed_.WaitFor(lock, limit_ / 4, [this] { return stopping_; })) {
    const SteadyClock::time_point deadline = SteadyClock::now() - absl::ToChronoNanoseconds(limit_);
    for (auto entry = expecting_.begin(); entry != expecting_.end();) {
      if ((*entry)->since_ > deadline) {
        ++entry;
        continue;
      }
      (*entry)->stalled_ = true;
      (*entry)->call_->TryCancel();
      entry = expecting_.erase(entry);
    }
  }
}

}  // namespace weft::server
