#ifndef WEFT_SERVER_WEB_PAGE_SERVER_H_
#define WEFT_SERVER_WEB_PAGE_SERVER_H_

#include <httplib.h>

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "server/web/status_source.h"

namespace weft::server {

// The status page and its data over HTTP, read-only: `/`, `/page.css`, `/page.js`, `/api/status` (JSON), `/api/events`
// (the same as Server-Sent Events, pushed at every change), `/healthz`. GET and HEAD only. Everything the page needs
// comes from here. Thread-safe.
class PageServer {
 public:
  struct Options {
    std::string host;
    int port = 0;                    // 0: any free one
    StatusSource* source = nullptr;  // outlives the server
    // Answers only requests addressed to a loopback name, so that a web site that points its own name at this machine
    // can't read the status.
    bool loopback_names_only = true;
    // Event streams at once; each holds a thread. One more is refused with 503, and the page falls back to asking now
    // and then.
    int max_streams = 16;
    // Events of one stream are at least this far apart.
    absl::Duration min_interval = absl::Milliseconds(100);
    // A quiet stream carries a comment this often, so that a browser which is gone is noticed.
    absl::Duration heartbeat = absl::Seconds(10);
  };

  // UNAVAILABLE when it can't listen there.
  static absl::StatusOr<std::unique_ptr<PageServer>> Start(const Options& options);
  // Stops.
  ~PageServer();

  int port() const { return port_; }
  // Ends the streams and all threads within about a second. Idempotent.
  void Stop();

 private:
  // One event stream.
  struct Stream {
    bool started = false;
    uint64_t seen = 0;
    absl::Time last_write;
  };

  explicit PageServer(const Options& options) : options_(options) {}
  void AddRoutes();
  httplib::Server::HandlerResponse Screen(const httplib::Request& request, httplib::Response& response) const;
  void ServeEvents(httplib::Response& response);
  // One turn of a stream: waits for a change and writes it. False ends the stream.
  bool Continue(Stream* stream, httplib::DataSink& sink);
  // False when the server stops meanwhile.
  bool Pause(absl::Duration duration);

  struct Snapshot {
    uint64_t version = 0;
    absl::Time made;
    std::string json;
  };
  // The status as JSON, made once per version for all who ask within a second (it also carries the time).
  std::shared_ptr<const Snapshot> Current();

  const Options options_;
  httplib::Server server_;
  int port_ = 0;
  std::thread thread_;

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ = false;
  int streams_ = 0;
  std::shared_ptr<const Snapshot> snapshot_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_WEB_PAGE_SERVER_H_
