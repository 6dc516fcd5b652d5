#ifndef WEFT_COMMON_MUTEX_H_
#define WEFT_COMMON_MUTEX_H_

// The one mutex of the code base: std::mutex and its condition variable. Debian's Abseil is not instrumented, so
// absl::Mutex would give false reports under the thread sanitizer.

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/time/time.h"

namespace weft {

using Mutex = std::mutex;
using MutexLock = std::unique_lock<std::mutex>;

class CondVar {
 public:
  void NotifyOne() { cv_.notify_one(); }
  void NotifyAll() { cv_.notify_all(); }

  // Waits until `ready()` holds; called and returns with the lock held.
  template <typename Predicate>
  void Wait(MutexLock& lock, Predicate ready) {
    cv_.wait(lock, ready);
  }

  // As Wait, but gives up after `timeout` (real time). Returns ready().
  template <typename Predicate>
  bool WaitFor(MutexLock& lock, absl::Duration timeout, Predicate ready) {
    return cv_.wait_for(lock, absl::ToChronoMicroseconds(timeout), ready);
  }

 private:
  std::condition_variable cv_;
};

}  // namespace weft

#endif  // WEFT_COMMON_MUTEX_H_
