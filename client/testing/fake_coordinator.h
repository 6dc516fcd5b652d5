#ifndef WEFT_CLIENT_TESTING_FAKE_COORDINATOR_H_
#define WEFT_CLIENT_TESTING_FAKE_COORDINATOR_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/link.h"
#include "common/mutex.h"

namespace weft {

// The other end of a daemon's links, played by a test: it pushes messages, waits for answers, breaks connections.
// Thread-safe; outlives its links.
class FakeCoordinator {
 public:
  struct Upload {
    proto::Update update;
    std::string components;
    EncodedUpdate tensors;
    Adapter adapter;  // their values
  };

  std::unique_ptr<Link> MakeLink();

  // What the next calls of Connect, Download or Upload return instead of succeeding, one each.
  void FailConnect(absl::Status status);
  void FailDownload(absl::Status status);
  void FailUpload(absl::Status status);
  // The next Connect waits until its link is closed.
  void HangConnect();
  // The next Upload, or Send of an evaluation, loses the connection instead.
  void BreakOnUpload();
  void BreakOnEvaluation();
  // The state of a round, or its step of the base; downloads of rounds without one get NOT_FOUND.
  void SetAdapter(int64_t round, Adapter adapter);
  void SetBaseStep(int64_t round, Adapter step);

  // Waits for a connection to stand, then pushes.
  void Push(const proto::ServerMessage& message);
  // Ends the connection that stands with `status`.
  void Break(const absl::Status& status = absl::UnavailableError("connection reset"));

  // Waits until the `count`-th successful connection, and returns its hello.
  proto::Hello WaitForConnect(int count);
  void WaitForConnectAttempts(int count);
  // Waits for the next message of this kind since the last call for it; messages of other kinds stay.
  proto::ClientMessage WaitFor(proto::ClientMessage::KindCase kind);
  // Waits for the next accepted upload.
  Upload WaitForUpload();
  void WaitForUploadAttempts(int count);

  int downloads() const;
  // Every download asked for so far, in order.
  std::vector<proto::DownloadRequest> requests() const;
  int upload_attempts() const;
  // Messages of a kind received so far and not yet taken by WaitFor.
  int pending(proto::ClientMessage::KindCase kind) const;

 private:
  class FakeLink;
  // One connection's state, shared with its link.
  struct Connection {
    std::deque<proto::ServerMessage> down;
    std::optional<absl::Status> end;
    bool closed = false;
    bool welcomed = false;
  };
  // With mutex_ held: the connection that stands, or nullptr.
  Connection* Standing() const;

  mutable Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<Connection> connection_;
  std::deque<absl::Status> connect_failures_;
  std::deque<absl::Status> download_failures_;
  std::deque<absl::Status> upload_failures_;
  bool hang_connect_ = false;
  bool break_on_upload_ = false;
  bool break_on_evaluation_ = false;
  std::map<int64_t, Adapter> adapters_;
  std::map<int64_t, Adapter> base_steps_;
  std::vector<proto::Hello> hellos_;
  int connect_attempts_ = 0;
  std::deque<proto::ClientMessage> up_;
  std::deque<Upload> uploads_;
  std::vector<proto::DownloadRequest> requests_;
  int upload_attempts_ = 0;
};

}  // namespace weft

#endif  // WEFT_CLIENT_TESTING_FAKE_COORDINATOR_H_
