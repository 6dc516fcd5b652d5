#ifndef WEFT_COMMON_CLOCK_H_
#define WEFT_COMMON_CLOCK_H_

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace weft {

// Source of time, so that tests crank it by hand (simulated_clock.h). Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

class RealClock : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
};

}  // namespace weft

#endif  // WEFT_COMMON_CLOCK_H_
