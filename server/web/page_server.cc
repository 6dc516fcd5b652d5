#include "server/web/page_server.h"

#include <arpa/inet.h>

#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/web/page_assets.h"
#include "server/web/status_json.h"

namespace weft::server {
namespace {

constexpr char kText[] = "text/plain; charset=utf-8";
// Beyond the event streams: page loads, /api/status, health checks.
constexpr int kShortRequestThreads = 4;
// How long a stream waits before it looks whether the server stops or its browser is gone.
constexpr absl::Duration kWait = absl::Milliseconds(500);
// A status says what time it is, so an unchanged one ages too.
constexpr absl::Duration kFresh = absl::Seconds(1);

const httplib::Headers& SecurityHeaders() {
  static const auto* headers = new httplib::Headers{
      {"Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
      {"X-Content-Type-Options", "nosniff"},
      {"Referrer-Policy", "no-referrer"},
      {"Cross-Origin-Resource-Policy", "same-origin"},
      {"Cache-Control", "no-store"},
  };
  return *headers;
}

bool IsLoopbackName(const std::string& host_header) {
  std::string name = host_header;
  if (const size_t colon = name.rfind(':'); colon != std::string::npos && !absl::EndsWith(name, "]"))
    name.resize(colon);
  in_addr v4;
  return name == "localhost" || name == "[::1]" ||
         (inet_pton(AF_INET, name.c_str(), &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127);
}

// The default also sets SO_REUSEPORT, with which a second coordinator would quietly share the port.
void SetSocketOptions(socket_t socket) {
  const int yes = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
}

std::string Event(const std::string& json) { return absl::StrCat("data: ", json, "\n\n"); }

}  // namespace

absl::StatusOr<std::unique_ptr<PageServer>> PageServer::Start(const Options& options) {
  std::unique_ptr<PageServer> page(new PageServer(options));
  httplib::Server& server = page->server_;
  server.new_task_queue = [threads = options.max_streams + kShortRequestThreads] {
    return new httplib::ThreadPool(threads);
  };
  server.set_socket_options(SetSocketOptions);
  server.set_tcp_nodelay(true);
  server.set_payload_max_length(0);
  server.set_keep_alive_timeout(1);
  server.set_default_headers(SecurityHeaders());
  page->AddRoutes();
  if (options.port == 0) {
    page->port_ = server.bind_to_any_port(options.host);
  } else if (server.bind_to_port(options.host, options.port)) {
    page->port_ = options.port;
  }
  if (page->port_ <= 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.host, ":", options.port));
  }
  page->thread_ = std::thread([&server] { server.listen_after_bind(); });
  // httplib ignores a stop that comes before it runs.
  while (!server.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return page;
}

PageServer::~PageServer() { Stop(); }

void PageServer::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (!thread_.joinable()) return;
  server_.stop();
  thread_.join();
}

void PageServer::AddRoutes() {
  server_.set_pre_routing_handler(
      [this](const httplib::Request& request, httplib::Response& response) { return Screen(request, response); });
  for (const PageAsset& asset : PageAssets()) {
    server_.Get(std::string(asset.path), [&asset](const httplib::Request&, httplib::Response& response) {
      response.set_content(asset.content.data(), asset.content.size(), std::string(asset.type));
    });
  }
  server_.Get("/healthz",
              [](const httplib::Request&, httplib::Response& response) { response.set_content("ok\n", kText); });
  server_.Get("/api/status", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(Current()->json, "application/json");
  });
  server_.Get("/api/events", [this](const httplib::Request&, httplib::Response& response) { ServeEvents(response); });
  server_.set_error_handler([](const httplib::Request&, httplib::Response& response) {
    if (!response.body.empty()) return;
    response.set_content(absl::StrCat(response.status, "\n"), kText);
  });
}

httplib::Server::HandlerResponse PageServer::Screen(const httplib::Request& request,
                                                    httplib::Response& response) const {
  if (request.method != "GET" && request.method != "HEAD") {
    response.status = 405;
    response.set_header("Allow", "GET, HEAD");
    response.set_content("This page is read-only; use `weft` to submit and stop jobs.\n", kText);
    return httplib::Server::HandlerResponse::Handled;
  }
  if (options_.loopback_names_only && !IsLoopbackName(request.get_header_value("Host"))) {
    response.status = 421;
    response.set_content("Found another host name, expected localhost or 127.0.0.1.\n", kText);
    return httplib::Server::HandlerResponse::Handled;
  }
  return httplib::Server::HandlerResponse::Unhandled;
}

void PageServer::ServeEvents(httplib::Response& response) {
  {
    MutexLock lock(mutex_);
    if (streams_ >= options_.max_streams) {
      response.status = 503;
      response.set_header("Retry-After", "5");
      response.set_content(absl::StrCat("All ", options_.max_streams, " event streams are taken; ask /api/status.\n"),
                           kText);
      return;
    }
    ++streams_;
  }
  response.set_chunked_content_provider(
      "text/event-stream",
      [this, stream = std::make_shared<Stream>()](size_t, httplib::DataSink& sink) {
        return Continue(stream.get(), sink);
      },
      [this](bool) {
        MutexLock lock(mutex_);
        --streams_;
      });
}

bool PageServer::Continue(Stream* stream, httplib::DataSink& sink) {
  if (stream->started) {
    if (!Pause(options_.min_interval)) return false;
    const uint64_t version = options_.source->WaitForChange(stream->seen, kWait);
    if (!sink.is_writable()) return false;
    if (version == stream->seen) {
      if (absl::Now() - stream->last_write < options_.heartbeat) return Pause(absl::ZeroDuration());
      stream->last_write = absl::Now();
      return sink.write(":\n\n", 3);
    }
  }
  const std::shared_ptr<const Snapshot> snapshot = Current();
  stream->started = true;
  stream->seen = snapshot->version;
  stream->last_write = absl::Now();
  const std::string event = Event(snapshot->json);
  return sink.write(event.data(), event.size());
}

bool PageServer::Pause(absl::Duration duration) {
  MutexLock lock(mutex_);
  return !changed_.WaitFor(lock, duration, [this] { return stopping_; });
}

std::shared_ptr<const PageServer::Snapshot> PageServer::Current() {
  const uint64_t version = options_.source->Version();
  const absl::Time now = absl::Now();
  {
    MutexLock lock(mutex_);
    if (snapshot_ != nullptr && snapshot_->version >= version && now - snapshot_->made < kFresh) return snapshot_;
  }
  // Read after the version: it may be newer than its number, never older.
  auto made = std::make_shared<const Snapshot>(Snapshot{version, now, StatusJson(options_.source->Status())});
  MutexLock lock(mutex_);
  if (snapshot_ == nullptr || snapshot_->version <= made->version) snapshot_ = made;
  return made;
}

}  // namespace weft::server
