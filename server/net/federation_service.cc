#include "server/net/federation_service.h"

#include <memory>
#include <optional>
#include <utility>

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
  using Stream = TensorStream<proto::TensorMessage, StateEncoder>;
  // gRPC keeps the request until the call is done.
  return Stream::Start(options_.work, [this, request]() -> absl::StatusOr<Stream::Source> {
    WEFT_ASSIGN_OR_RETURN(StateDownload download, options_.coordinator->Download(*request));
    StateEncoder::Options encoding;
    encoding.layout = std::move(download.layout);
    encoding.job_layout = std::move(download.job_layout);
    encoding.roles = std::move(download.roles);
    encoding.chunk_bytes = options_.chunk_bytes;
    auto encoder = std::make_unique<StateEncoder>(*download.state, std::move(encoding));
    return Stream::Source{std::move(download.state), std::move(encoder), std::nullopt};
  });
}

grpc::ServerReadReactor<proto::UploadMessage>* FederationService::Upload(grpc::CallbackServerContext* call,
                                                                         proto::UploadReply*) {
  return UploadStream::Start(uploads_, call);
}

}  // namespace weft::server
