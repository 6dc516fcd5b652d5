#ifndef WEFT_SERVER_NET_STALL_WATCH_H_
#define WEFT_SERVER_NET_STALL_WATCH_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <set>
#include <thread>

#include "absl/time/time.h"
#include "common/mutex.h"

namespace weft::server {

// Breaks off calls whose peer stays connected but sends nothing, so that an upload can't hold its memory for ever. Real
// time. Thread-safe.
class StallWatch {
 public:
  // One watched call. Between Expect and Pause something must come within the limit, else the call is cancelled.
  class Entry {
   public:
    Entry(StallWatch* watch, grpc::CallbackServerContext* call) : watch_(watch), call_(call) {}
    ~Entry() { Pause(); }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

    void Expect();
    void Pause();
    // The call was cancelled by the watch.
    bool stalled() const;

   private:
    friend class StallWatch;
    StallWatch* const watch_;
    grpc::CallbackServerContext* const call_;
    std::chrono::steady_clock::time_point since_;
    bool stalled_ = false;
  };

  explicit StallWatch(absl::Duration limit);
  ~StallWatch();

  absl::Duration limit() const { return limit_; }

 private:
  void Run();

  const absl::Duration limit_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::set<Entry*> expecting_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_STALL_WATCH_H_
