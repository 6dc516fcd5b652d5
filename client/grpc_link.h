#ifndef WEFT_CLIENT_GRPC_LINK_H_
#define WEFT_CLIENT_GRPC_LINK_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/link.h"
#include "client/stall_guard.h"
#include "common/mutex.h"
#include "proto/service.grpc.pb.h"

namespace weft {

// Link over gRPC (proto/service.proto): one channel of its own with the long-lived Connect stream; Download and Upload
// run beside it on the same connection. No call has a fixed deadline: each is cancelled when nothing moved for
// `stall_timeout`, and keepalive pings find a dead peer. Order of calls and threads: client/link.h.
class GrpcLink : public Link {
 public:
  struct Options {
    std::string address;    // host:port of the coordinator
    bool insecure = false;  // allow an address that is not loopback
    absl::Duration keepalive = absl::Seconds(20);
    absl::Duration stall_timeout = absl::Minutes(2);
    // How long Close waits for the coordinator to take the last message and end the stream, while another thread is in
    // Receive.
    absl::Duration close_grace = absl::Seconds(1);
  };

  // INVALID_ARGUMENT: malformed address, or one beyond loopback without `insecure`. Does not dial yet.
  static absl::StatusOr<std::unique_ptr<Link>> Create(const Options& options);
  ~GrpcLink() override;

  absl::StatusOr<proto::Welcome> Connect(const proto::Hello& hello) override;
  absl::StatusOr<proto::ServerMessage> Receive() override;
  // RESOURCE_EXHAUSTED: larger than the coordinator takes.
  absl::Status Send(const proto::ClientMessage& message) override;
  // DATA_LOSS: what arrived is not the announced state.
  absl::StatusOr<Adapter> Download(const proto::DownloadRequest& request, const Adapter* held,
                                   std::shared_ptr<const Layout> job_layout, const BytesFunction& progress) override;
  absl::Status Upload(const proto::Update& update, const EncodedUpdate& tensors, const std::string& components,
                      const BytesFunction& progress) override;
  void Close() override;

 private:
  using Stream = grpc::ClientReaderWriter<proto::ClientMessage, proto::ServerMessage>;

  GrpcLink(const Options& options, std::shared_ptr<grpc::Channel> channel);
  // Status of a call that has ended, as the daemon sees it. `call` may have been stopped by the guard or by Close.
  absl::Status StatusOf(const grpc::Status& status, const StallGuard::Call& call);
  // After a Read or Write failed: the status the stream ended with.
  grpc::Status FinishStream();
  absl::Status Closed() const;

  const Options options_;
  std::unique_ptr<proto::Federation::Stub> stub_;
  StallGuard guard_;
  grpc::ClientContext context_;     // of the stream
  std::unique_ptr<Stream> stream_;  // set by Connect
  uint64_t chunk_bytes_ = 0;        // set by Connect
  uint64_t max_message_bytes_ = 0;  // set by Connect

  Mutex mutex_;
  CondVar changed_;
  bool connected_ = false;
  bool writing_ = false;
  bool closed_ = false;
  bool finished_ = false;
};

}  // namespace weft

#endif  // WEFT_CLIENT_GRPC_LINK_H_
