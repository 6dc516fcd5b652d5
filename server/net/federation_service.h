#ifndef WEFT_SERVER_NET_FEDERATION_SERVICE_H_
#define WEFT_SERVER_NET_FEDERATION_SERVICE_H_

#include <cstdint>

#include "absl/time/time.h"
#include "proto/service.grpc.pb.h"
#include "server/coordinator.h"
#include "server/net/client_stream.h"
#include "server/net/stall_watch.h"
#include "server/net/upload_stream.h"
#include "server/net/work_queue.h"

namespace weft::server {

// proto/service.proto's Federation on a Coordinator: only translation. Thread-safe; outlives the gRPC server it is
// registered with.
class FederationService final : public proto::Federation::CallbackService {
 public:
  struct Options {
    Coordinator* coordinator = nullptr;
    WorkQueue* work = nullptr;       // calls into the coordinator
    WorkQueue* admission = nullptr;  // BeginUpload, which waits for memory
    uint64_t chunk_bytes = 0;
    // An upload that brings nothing for this long is broken off.
    absl::Duration upload_stall_limit = absl::Seconds(60);
  };
  explicit FederationService(const Options& options);

  grpc::ServerBidiReactor<proto::ClientMessage, proto::ServerMessage>* Connect(
      grpc::CallbackServerContext* call) override;
  grpc::ServerWriteReactor<proto::TensorMessage>* Download(grpc::CallbackServerContext* call,
                                                           const proto::DownloadRequest* request) override;
  grpc::ServerReadReactor<proto::UploadMessage>* Upload(grpc::CallbackServerContext* call,
                                                        proto::UploadReply* reply) override;

 private:
  const Options options_;
  StallWatch stalls_;
  ClientStream::Shared streams_;
  const UploadStream::Shared uploads_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_FEDERATION_SERVICE_H_
