#include "server/net/federation_service.h"

#include <optional>

#include "common/status_macros.h"
#include "server/net/tensor_stream.h"

namespace weft::server {

FederationService::FederationService(const Options& options)
    : options_(options),
      stalls_(options.upload_stall_limit),
      uploads_{options.coordinator, options.work, options.admission, &stalls_} {
  streams_.coordinator = options.coordinator;
  streams_.work = options.work;
}

grpc::ServerBidiReactor<proto::ClientMessage, proto::ServerMessage>* FederationService::Connect(
    grpc::CallbackServerContext* call) {
  return ClientStream::Start(&streams_, call);
}

grpc::ServerWriteReactor<proto::TensorMessage>* FederationService::Download(grpc::CallbackServerContext*,
                                                                            const proto::DownloadRequest* request) {
  using Stream = TensorStream<proto::TensorMessage>;
  // gRPC keeps the request until the call is done.
  return Stream::Start(options_.work, options_.chunk_bytes, [this, request]() -> absl::StatusOr<Stream::Source> {
    WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Adapter> adapter, options_.coordinator->Download(*request));
    return Stream::Source{std::move(adapter), std::nullopt};
  });
}

grpc::ServerReadReactor<proto::UploadMessage>* FederationService::Upload(grpc::CallbackServerContext* call,
                                                                         proto::UploadReply*) {
  return UploadStream::Start(uploads_, call);
}

}  // namespace weft::server
