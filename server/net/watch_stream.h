#ifndef WEFT_SERVER_NET_WATCH_STREAM_H_
#define WEFT_SERVER_NET_WATCH_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "common/mutex.h"
#include "proto/status.pb.h"
#include "server/coordinator.h"
#include "server/net/status_feed.h"
#include "server/net/work_queue.h"

namespace weft::server {

// One Admin.Watch: the status at once, then at every change that the watcher is fast enough to read; it always gets the
// latest. Ends when the watched job has. Deletes itself.
class WatchStream final : public grpc::ServerWriteReactor<proto::CoordinatorStatus>, public StatusFeed::Listener {
 public:
  struct Options {
    Coordinator* coordinator = nullptr;
    WorkQueue* work = nullptr;
    StatusFeed* feed = nullptr;
    std::string job_id;  // empty: all jobs, for ever
  };
  // The result is what the service hands to gRPC.
  static WatchStream* Start(Options options);

 private:
  explicit WatchStream(Options options) : options_(std::move(options)) {}

  void OnChange() override;
  void OnStop() override;
  void OnCancel() override;
  void OnWriteDone(bool ok) override;
  void OnDone() override;

  // On the work queue: reads the status and starts to write it.
  void Produce();
  // The stream ends with `status`, now or after the write under way.
  void End(const absl::Status& status);
  // With mutex_ held: what to do now that nothing is being produced.
  void AdvanceLocked();

  const Options options_;
  proto::CoordinatorStatus message_;

  Mutex mutex_;
  bool busy_ = false;  // Produce or a write is under way
  bool stale_ = true;  // something changed since the last Produce
  bool finished_ = false;
  std::optional<absl::Status> end_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_WATCH_STREAM_H_
