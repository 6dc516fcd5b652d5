#ifndef WEFT_CLIENT_BACKOFF_H_
#define WEFT_CLIENT_BACKOFF_H_

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "common/random.h"

namespace weft {

// Waits between attempts: doubling from `min` to `max`, each cut by up to half at random so that clients that lost the
// same coordinator do not come back all at once. Not thread-safe.
class Backoff {
 public:
  Backoff(absl::Duration min, absl::Duration max, uint64_t seed)
      : min_(min), max_(std::max(min, max)), next_(min), random_(seed, StreamId("backoff")) {}

  // In [d/2, d] with d = min, 2 min, 4 min, ..., max.
  absl::Duration Next() {
    const absl::Duration wait = next_ * (0.5 + 0.5 * random_.NextDouble());
    next_ = std::min(next_ * 2, max_);
    return wait;
  }

  void Reset() { next_ = min_; }

 private:
  const absl::Duration min_;
  const absl::Duration max_;
  absl::Duration next_;
  Philox random_;
};

}  // namespace weft

#endif  // WEFT_CLIENT_BACKOFF_H_
