#ifndef WEFT_CLIENT_STALL_GUARD_H_
#define WEFT_CLIENT_STALL_GUARD_H_

#include <grpcpp/client_context.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <set>
#include <thread>

#include "absl/time/time.h"
#include "common/mutex.h"

namespace weft {

// Deadlines by progress: cancels every watched gRPC call that was not touched for `timeout`, however long it has run in
// all. Owns one thread. Thread-safe; every Call must be gone before its guard.
class StallGuard {
 public:
  explicit StallGuard(absl::Duration timeout);
  ~StallGuard();

  // One watched call; the context outlives it.
  class Call {
   public:
    Call(StallGuard* guard, grpc::ClientContext* context);
    ~Call();
    // Something moved.
    void Touch();
    // The guard has cancelled the call because nothing moved.
    bool stalled() const { return stalled_; }

   private:
    friend class StallGuard;
    StallGuard* const guard_;
    grpc::ClientContext* const context_;
    std::chrono::steady_clock::time_point last_progress_;  // guarded by the guard's mutex
    std::atomic<bool> stalled_ = false;
  };

  // Cancels all calls, and those still to come.
  void CancelAll();

 private:
  void Run();

  const absl::Duration timeout_;
  Mutex mutex_;
  CondVar changed_;
  std::set<Call*> calls_;
  bool cancelled_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace weft

#endif  // WEFT_CLIENT_STALL_GUARD_H_
