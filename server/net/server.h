#ifndef WEFT_SERVER_NET_SERVER_H_
#define WEFT_SERVER_NET_SERVER_H_

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/daemon.pb.h"
#include "server/coordinator.h"
#include "server/net/admin_service.h"
#include "server/net/federation_service.h"
#include "server/net/status_feed.h"
#include "server/net/work_queue.h"
#include "server/web/page_server.h"
#include "server/web/status_source.h"

namespace weft::server {

// A coordinator on the network: the gRPC services and the status page. Start, Shutdown and destruction: one thread.
class Server {
 public:
  struct Options {
    proto::CoordinatorConfig config;     // defaults applied and validated
    Coordinator* coordinator = nullptr;  // outlives the server
    // There is no encryption in this version: addresses beyond loopback are refused unless this is set.
    bool insecure = false;
    absl::Duration upload_stall_limit = absl::Seconds(60);
  };

  // Listens on both ports, then writes the ports file. INVALID_ARGUMENT: bad address; FAILED_PRECONDITION: an address
  // beyond loopback without `insecure`; UNAVAILABLE: port in use.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Options& options);
  // Shuts down.
  ~Server();

  int grpc_port() const { return grpc_port_; }
  // 0 when the page is off.
  int page_port() const { return page_ == nullptr ? 0 : page_->port(); }

  // Shuts the coordinator down first, so that clients are told, then ends all calls within about 3 s. Idempotent.
  void Shutdown();

 private:
  explicit Server(const Options& options);
  absl::Status StartGrpc(const Options& options);
  absl::Status StartPage(const Options& options);

  Coordinator* const coordinator_;
  std::unique_ptr<StatusSource> source_;
  std::unique_ptr<PageServer> page_;
  WorkQueue work_;
  WorkQueue admission_;
  StatusFeed feed_;
  FederationService federation_;
  AdminService admin_;
  int grpc_port_ = 0;
  std::unique_ptr<grpc::Server> grpc_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_SERVER_H_
