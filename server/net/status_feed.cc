#include "server/net/status_feed.h"

#include <cstdint>

namespace weft::server {
namespace {

// How long Stop may take when the coordinator itself goes on.
constexpr absl::Duration kWait = absl::Seconds(1);

}  // namespace

StatusFeed::StatusFeed(Coordinator* coordinator, absl::Duration min_interval)
    : coordinator_(coordinator), min_interval_(min_interval), thread_([this] { Run(); }) {}

StatusFeed::~StatusFeed() { Stop(); }

void StatusFeed::Add(Listener* listener) {
  MutexLock lock(mutex_);
  if (stopping_) {
    listener->OnStop();
  } else {
    listeners_.insert(listener);
  }
}

void StatusFeed::Remove(Listener* listener) {
  MutexLock lock(mutex_);
  listeners_.erase(listener);
}

void StatusFeed::Stop() {
  {
    MutexLock lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    for (Listener* listener : listeners_) listener->OnStop();
    listeners_.clear();
    changed_.NotifyAll();
  }
  thread_.join();
}

void StatusFeed::Run() {
  uint64_t seen = coordinator_->status_version();
  MutexLock lock(mutex_);
  do {
    lock.unlock();
    const uint64_t version = coordinator_->WaitForChange(seen, kWait);
    lock.lock();
    if (version == seen) continue;
    seen = version;
    for (Listener* listener : listeners_) listener->OnChange();
  } while (!changed_.WaitFor(lock, min_interval_, [this] { return stopping_; }));
}

}  // namespace weft::server
