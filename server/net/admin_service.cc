#include "server/net/admin_service.h"

#include <memory>
#include <optional>
#include <utility>

#include "common/status_macros.h"
#include "server/net/grpc_status.h"
#include "server/net/submit_stream.h"
#include "server/net/tensor_stream.h"
#include "server/net/watch_stream.h"

namespace weft::server {

grpc::ServerReadReactor<proto::SubmitMessage>* AdminService::Submit(grpc::CallbackServerContext* call,
                                                                    proto::SubmitReply* reply) {
  return SubmitStream::Start({options_.coordinator, options_.work, call, reply});
}

grpc::ServerUnaryReactor* AdminService::GetStatus(grpc::CallbackServerContext* call,
                                                  const proto::StatusRequest* request,
                                                  proto::CoordinatorStatus* reply) {
  grpc::ServerUnaryReactor* const reactor = call->DefaultReactor();
  options_.work->Post([this, reactor, request, reply] {
    absl::StatusOr<proto::CoordinatorStatus> status = options_.coordinator->GetStatus(request->job_id());
    if (status.ok()) *reply = std::move(*status);
    reactor->Finish(ToGrpcStatus(status.status()));
  });
  return reactor;
}

grpc::ServerWriteReactor<proto::CoordinatorStatus>* AdminService::Watch(grpc::CallbackServerContext*,
                                                                        const proto::StatusRequest* request) {
  return WatchStream::Start({options_.coordinator, options_.work, options_.feed, request->job_id()});
}

grpc::ServerUnaryReactor* AdminService::Stop(grpc::CallbackServerContext* call, const proto::StopRequest* request,
                                             proto::StopReply* reply) {
  grpc::ServerUnaryReactor* const reactor = call->DefaultReactor();
  options_.work->Post([this, reactor, request, reply] {
    absl::StatusOr<proto::JobStatus> job = options_.coordinator->Stop(request->job_id());
    if (job.ok()) *reply->mutable_job() = std::move(*job);
    reactor->Finish(ToGrpcStatus(job.status()));
  });
  return reactor;
}

grpc::ServerWriteReactor<proto::ExportMessage>* AdminService::Export(grpc::CallbackServerContext*,
                                                                     const proto::ExportRequest* request) {
  using Stream = TensorStream<proto::ExportMessage, AdapterEncoder>;
  // gRPC keeps the request until the call is done.
  return Stream::Start(options_.work, [this, request]() -> absl::StatusOr<Stream::Source> {
    WEFT_ASSIGN_OR_RETURN(ExportedAdapter exported, options_.coordinator->Export(request->job_id(), request->which()));
    proto::ExportMessage first;
    *first.mutable_info() = std::move(exported.info);
    auto encoder = std::make_unique<AdapterEncoder>(*exported.adapter, options_.chunk_bytes);
    return Stream::Source{std::move(exported.adapter), std::move(encoder), std::move(first)};
  });
}

}  // namespace weft::server
