#ifndef WEFT_SERVER_NET_CLIENT_STREAM_H_
#define WEFT_SERVER_NET_CLIENT_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "common/mutex.h"
#include "proto/service.pb.h"
#include "server/coordinator.h"
#include "server/net/work_queue.h"

namespace weft::server {

// The coordinator's end of one Federation.Connect: reads hello and what follows, one message at a time, and is the
// channel that the coordinator pushes into. Costs no thread while nothing happens. Owns itself until gRPC is done with
// it; the coordinator may hold it longer.
class ClientStream final : public grpc::ServerBidiReactor<proto::ClientMessage, proto::ServerMessage>,
                           public ClientChannel,
                           public std::enable_shared_from_this<ClientStream> {
 public:
  // A client that leaves this many messages unread is cut off.
  static constexpr size_t kMaxQueuedMessages = 256;

  // What all streams of a service share; outlives them.
  struct Shared {
    Coordinator* coordinator = nullptr;
    WorkQueue* work = nullptr;
    // Held while a client joins or leaves, so that the end of a stream that was replaced meanwhile can't be taken for
    // the end of its successor: both carry the same instance.
    Mutex membership;
  };

  // Begins to read; the result is what the service hands to gRPC.
  static ClientStream* Start(Shared* shared, grpc::CallbackServerContext* call);

  void Send(const proto::ServerMessage& message) override;
  void Close(const absl::Status& status) override;

 private:
  ClientStream(Shared* shared, grpc::CallbackServerContext* call) : shared_(shared), call_(call) {}

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone() override;

  // On the work queue: one message, then the next read.
  void Handle();
  absl::Status Dispatch();
  absl::Status Join();
  void Leave();
  // With mutex_ held: the stream ends with `status` once the queue is sent. The first call counts.
  void EndLocked(const absl::Status& status);
  // With mutex_ held: starts the next write, or finishes.
  void AdvanceLocked();

  Shared* const shared_;
  grpc::CallbackServerContext* const call_;
  // Keeps this alive until OnDone.
  std::shared_ptr<ClientStream> self_;

  // Touched only by the one read or Handle under way.
  proto::ClientMessage incoming_;
  std::string client_id_;
  std::string instance_;

  Mutex mutex_;
  std::deque<proto::ServerMessage> queue_;  // the front is being written when writing_
  std::optional<absl::Status> end_;
  bool writing_ = false;
  bool handling_ = false;
  bool joined_ = false;
  bool closed_by_coordinator_ = false;
  bool finished_ = false;  // Finish was called
  bool done_ = false;      // OnDone was called
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_CLIENT_STREAM_H_
