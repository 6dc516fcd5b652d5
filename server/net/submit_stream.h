#ifndef WEFT_SERVER_NET_SUBMIT_STREAM_H_
#define WEFT_SERVER_NET_SUBMIT_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <optional>

#include "absl/status/status.h"
#include "adapters/codec.h"
#include "proto/service.pb.h"
#include "server/coordinator.h"
#include "server/net/work_queue.h"

namespace weft::server {

// One Admin.Submit: the config, then perhaps the warm start as header and chunks. Deletes itself.
class SubmitStream final : public grpc::ServerReadReactor<proto::SubmitMessage> {
 public:
  struct Options {
    Coordinator* coordinator = nullptr;
    WorkQueue* work = nullptr;
    grpc::CallbackServerContext* call = nullptr;
    proto::SubmitReply* reply = nullptr;
  };
  // Begins to read; the result is what the service hands to gRPC.
  static SubmitStream* Start(const Options& options);

 private:
  explicit SubmitStream(const Options& options) : options_(options) {}

  void OnReadDone(bool ok) override;
  void OnDone() override { delete this; }

  absl::Status Receive();
  absl::Status Complete();

  const Options options_;
  proto::SubmitMessage message_;
  std::optional<proto::JobConfig> config_;
  std::optional<AdapterDecoder> warm_start_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_SUBMIT_STREAM_H_
