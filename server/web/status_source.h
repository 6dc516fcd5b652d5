#ifndef WEFT_SERVER_WEB_STATUS_SOURCE_H_
#define WEFT_SERVER_WEB_STATUS_SOURCE_H_

#include <cstdint>

#include "absl/time/time.h"
#include "proto/status.pb.h"

namespace weft::server {

// What the page shows. Thread-safe.
class StatusSource {
 public:
  virtual ~StatusSource() = default;
  virtual proto::CoordinatorStatus Status() = 0;
  // Grows at every change of Status.
  virtual uint64_t Version() = 0;
  // Waits until Version() > seen, or the timeout passed (real time), or the source is shut down. Returns the version
  // now.
  virtual uint64_t WaitForChange(uint64_t seen, absl::Duration timeout) = 0;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_WEB_STATUS_SOURCE_H_
