#ifndef WEFT_SERVER_JOURNAL_STATE_LOCK_H_
#define WEFT_SERVER_JOURNAL_STATE_LOCK_H_

#include <string>

#include "absl/status/statusor.h"

namespace weft::server {

// Holds a state folder for one process; the system lets go of it when the process dies. Movable.
class StateLock {
 public:
  // FAILED_PRECONDITION: another process holds the folder.
  static absl::StatusOr<StateLock> Take(const std::string& folder);
  ~StateLock();
  StateLock(StateLock&& other) noexcept;
  StateLock& operator=(StateLock&&) = delete;

 private:
  explicit StateLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_JOURNAL_STATE_LOCK_H_
