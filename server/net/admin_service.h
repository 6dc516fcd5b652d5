#ifndef WEFT_SERVER_NET_ADMIN_SERVICE_H_
#define WEFT_SERVER_NET_ADMIN_SERVICE_H_

#include <cstdint>

#include "proto/service.grpc.pb.h"
#include "server/coordinator.h"
#include "server/net/status_feed.h"
#include "server/net/work_queue.h"

namespace weft::server {

// proto/service.proto's Admin on a Coordinator: only translation. Thread-safe; outlives the gRPC server it is
// registered with.
class AdminService final : public proto::Admin::CallbackService {
 public:
  struct Options {
    Coordinator* coordinator = nullptr;
    WorkQueue* work = nullptr;
    StatusFeed* feed = nullptr;
    uint64_t chunk_bytes = 0;
  };
  explicit AdminService(const Options& options) : options_(options) {}

  grpc::ServerReadReactor<proto::SubmitMessage>* Submit(grpc::CallbackServerContext* call,
                                                        proto::SubmitReply* reply) override;
  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* call, const proto::StatusRequest* request,
                                      proto::CoordinatorStatus* reply) override;
  grpc::ServerWriteReactor<proto::CoordinatorStatus>* Watch(grpc::CallbackServerContext* call,
                                                            const proto::StatusRequest* request) override;
  grpc::ServerUnaryReactor* Stop(grpc::CallbackServerContext* call, const proto::StopRequest* request,
                                 proto::StopReply* reply) override;
  grpc::ServerWriteReactor<proto::ExportMessage>* Export(grpc::CallbackServerContext* call,
                                                         const proto::ExportRequest* request) override;

 private:
  const Options options_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_ADMIN_SERVICE_H_
