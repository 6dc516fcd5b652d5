#ifndef WEFT_CLIENT_DAEMON_H_
#define WEFT_CLIENT_DAEMON_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/backoff.h"
#include "client/link.h"
#include "client/state_store.h"
#include "client/worker.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "training/data/shard.h"
#include "training/trainer.h"

namespace weft {

// A client: keeps a connection to the coordinator, says hello on each, and hands what arrives to its worker. Knows
// neither gRPC nor torch. Run from one thread; Stop from any, once Run is called or before.
class Daemon {
 public:
  struct Options {
    std::string client_id;
    std::string version;
    uint64_t seed = 0;  // random per process: names the instance, and spreads reconnects
    absl::Duration reconnect_min = absl::Milliseconds(200);
    absl::Duration reconnect_max = absl::Seconds(10);
    // A fresh link to the coordinator, not connected.
    std::function<absl::StatusOr<std::unique_ptr<Link>>()> make_link;
    Trainer* trainer = nullptr;        // outlives the daemon
    const DataFolder* data = nullptr;  // outlives the daemon
    const Clock* clock = nullptr;      // outlives the daemon
    StateStore* states = nullptr;      // outlives the daemon
    int64_t max_rank = 0;              // as in Worker
  };

  explicit Daemon(Options options);

  // Connects, works, reconnects when the connection is lost, for ever. OK after Stop. An error that time does not heal
  // ends it: ALREADY_EXISTS (id in use), FAILED_PRECONDITION (protocol version), INVALID_ARGUMENT (hello refused),
  // PERMISSION_DENIED, UNAUTHENTICATED, UNIMPLEMENTED (no coordinator there), or what make_link says.
  absl::Status Run();
  // Cancels the work, says goodbye with `reason` and makes Run return. Idempotent.
  void Stop(const std::string& reason);

 private:
  // One connection, from hello to its end: what the coordinator says to hello when it is refused, else UNAVAILABLE with
  // how it ended.
  absl::Status Serve(const std::shared_ptr<Link>& link);
  proto::Hello MakeHello() const;
  // False when stopping.
  bool Adopt(std::shared_ptr<Link> link);

  const Options options_;
  Backoff backoff_;
  Worker worker_;

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ = false;
  bool welcomed_ = false;
  std::shared_ptr<Link> link_;
};

}  // namespace weft

#endif  // WEFT_CLIENT_DAEMON_H_
