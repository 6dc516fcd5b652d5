#ifndef WEFT_SERVER_NET_UPLOAD_STREAM_H_
#define WEFT_SERVER_NET_UPLOAD_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "adapters/codec.h"
#include "proto/service.pb.h"
#include "server/coordinator.h"
#include "server/net/stall_watch.h"
#include "server/net/work_queue.h"

namespace weft::server {

// One Federation.Upload: start, chunks checked one by one as they come, then the whole handed to the coordinator.
// Deletes itself.
class UploadStream final : public grpc::ServerReadReactor<proto::UploadMessage> {
 public:
  // What all uploads of a service share; outlives them.
  struct Shared {
    Coordinator* coordinator = nullptr;
    WorkQueue* work = nullptr;
    // Its own threads, so that uploads that wait for memory hold up no other call.
    WorkQueue* admission = nullptr;
    StallWatch* stalls = nullptr;
  };

  // Begins to read; the result is what the service hands to gRPC.
  static UploadStream* Start(const Shared& shared, grpc::CallbackServerContext* call);

 private:
  UploadStream(const Shared& shared, grpc::CallbackServerContext* call)
      : shared_(shared), call_(call), watched_(shared.stalls, call) {}

  void OnReadDone(bool ok) override;
  void OnDone() override;

  // On a work queue, one at a time; each ends in the next read or in Finish.
  void HandleStart();
  void HandleChunk();
  void HandleEnd();

  absl::Status Admit();
  absl::Status Receive();
  absl::StatusOr<EncodedUpdate> Complete();
  // Finishes with `status`; an error abandons the ticket.
  void End(const absl::Status& status);

  const Shared& shared_;
  grpc::CallbackServerContext* const call_;
  proto::UploadMessage message_;
  std::optional<uint64_t> ticket_;
  std::optional<UpdateDecoder> decoder_;
  // Set when the messages ended too early: only OnDone tells a client that ended them from a connection that broke.
  std::optional<absl::Status> truncated_;
  StallWatch::Entry watched_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_UPLOAD_STREAM_H_
