#ifndef WEFT_COMMON_SIMULATED_CLOCK_H_
#define WEFT_COMMON_SIMULATED_CLOCK_H_

#include "common/clock.h"
#include "common/mutex.h"

namespace weft {

// A clock that stands still until Advance is called. Thread-safe.
class SimulatedClock : public Clock {
 public:
  explicit SimulatedClock(absl::Time start = absl::FromUnixSeconds(1'000'000'000)) : now_(start) {}

  absl::Time Now() const override {
    MutexLock lock(mutex_);
    return now_;
  }

  void Advance(absl::Duration by) {
    MutexLock lock(mutex_);
    now_ += by;
  }

 private:
  mutable Mutex mutex_;
  absl::Time now_;
};

}  // namespace weft

#endif  // WEFT_COMMON_SIMULATED_CLOCK_H_
