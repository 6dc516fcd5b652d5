#include "server/net/server.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "server/net/address.h"

namespace weft::server {
namespace {

// What watchers get, at most.
constexpr absl::Duration kMinWatchInterval = absl::Milliseconds(100);
// Calls still open after this are cut off at shutdown.
constexpr auto kShutdownGrace = std::chrono::seconds(2);
// A connection whose other end is gone is found within 30 s; clients may ping as often as every 5 s.
constexpr int kKeepaliveMs = 20'000;
constexpr int kKeepaliveTimeoutMs = 10'000;
constexpr int kMinPingIntervalMs = 5'000;

class CoordinatorStatusSource final : public StatusSource {
 public:
  explicit CoordinatorStatusSource(Coordinator* coordinator) : coordinator_(coordinator) {}

  proto::CoordinatorStatus Status() override {
    return coordinator_->GetStatus("").value_or(proto::CoordinatorStatus());
  }
  uint64_t Version() override { return coordinator_->status_version(); }
  uint64_t WaitForChange(uint64_t seen, absl::Duration timeout) override {
    return coordinator_->WaitForChange(seen, timeout);
  }

 private:
  Coordinator* const coordinator_;
};

// Parses `text` and holds it against the rule for loopback.
absl::StatusOr<Address> AllowedAddress(const std::string& text, const std::string& key, bool insecure) {
  WEFT_ASSIGN_OR_RETURN(Address address, Address::Parse(text, key));
  WEFT_ASSIGN_OR_RETURN(const bool loopback, IsLoopback(address.host));
  if (!loopback && !insecure) {
    return absl::FailedPreconditionError(
        absl::StrCat(key, ": ", text, " can be reached from other machines and nothing is encrypted in this version; ",
                     "listen on 127.0.0.1, or give --insecure on a network you trust"));
  }
  return address;
}

// Uploads that wait for memory at once, each kept alive as long as it waits; more queue behind them.
constexpr int kAdmissionThreads = 16;

int WorkThreads() { return std::max(4, static_cast<int>(std::thread::hardware_concurrency())); }

}  // namespace

Server::Server(const Options& options)
    : coordinator_(options.coordinator),
      source_(std::make_unique<CoordinatorStatusSource>(options.coordinator)),
      work_(WorkThreads()),
      admission_(kAdmissionThreads),
      feed_(options.coordinator, kMinWatchInterval),
      federation_({
          .coordinator = options.coordinator,
          .work = &work_,
          .admission = &admission_,
          .chunk_bytes = static_cast<uint64_t>(options.config.chunk_bytes()),
          .upload_stall_limit = options.upload_stall_limit,
      }),
      admin_({
          .coordinator = options.coordinator,
          .work = &work_,
          .feed = &feed_,
          .chunk_bytes = static_cast<uint64_t>(options.config.chunk_bytes()),
      }) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Options& options) {
  std::unique_ptr<Server> server(new Server(options));
  WEFT_RETURN_IF_ERROR(server->StartGrpc(options));
  WEFT_RETURN_IF_ERROR(server->StartPage(options));
  const std::string page = server->page_ == nullptr ? "off" : absl::StrCat(server->page_port());
  if (!options.config.ports_file().empty()) {
    WEFT_RETURN_IF_ERROR(WriteFileAtomically(options.config.ports_file(),
                                             absl::StrCat("grpc=", server->grpc_port_, " page=", page, "\n")));
  }
  const auto log = Logger("server.net");
  if (options.insecure) {
    log->warn("insecure=true meaning=\"no encryption and no check of who connects; use only on a network you trust\"");
  }
  log->info("listening grpc={} page={} encryption=none reach={}", server->grpc_port_, page,
            options.insecure ? "network" : "loopback");
  return server;
}

absl::Status Server::StartGrpc(const Options& options) {
  WEFT_ASSIGN_OR_RETURN(const Address address, AllowedAddress(options.config.listen(), "listen", options.insecure));
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address.ToString(), grpc::InsecureServerCredentials(), &grpc_port_);
  builder.RegisterService(&federation_);
  builder.RegisterService(&admin_);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.config.max_message_bytes()));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // By default pings stop after two without data between them, and an idle client that vanished would stay for ever.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingIntervalMs);
  // gRPC says only that it failed, and prints more than one line about it: find out before, and name the reason.
  WEFT_RETURN_IF_ERROR(CheckBindable(address, "listen"));
  grpc_ = builder.BuildAndStart();
  if (grpc_ == nullptr) return absl::UnavailableError(absl::StrCat("cannot listen on ", address.ToString()));
  return absl::OkStatus();
}

absl::Status Server::StartPage(const Options& options) {
  const std::string& text = options.config.page();
  if (text.empty() || text == "off") return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(const Address address, AllowedAddress(text, "page", options.insecure));
  WEFT_RETURN_IF_ERROR(CheckBindable(address, "page"));
  WEFT_ASSIGN_OR_RETURN(const bool loopback, IsLoopback(address.host));
  PageServer::Options page;
  page.host = address.host;
  page.port = address.port;
  page.source = source_.get();
  page.loopback_names_only = loopback;
  WEFT_ASSIGN_OR_RETURN(page_, PageServer::Start(page));
  return absl::OkStatus();
}

Server::~Server() { Shutdown(); }

void Server::Shutdown() {
  coordinator_->Shutdown();
  feed_.Stop();
  if (page_ != nullptr) page_->Stop();
  if (grpc_ != nullptr) {
    grpc_->Shutdown(std::chrono::system_clock::now() + kShutdownGrace);
    grpc_->Wait();
    grpc_.reset();
  }
  admission_.Stop();
  work_.Stop();
}

}  // namespace weft::server
