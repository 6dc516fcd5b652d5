#ifndef WEFT_CLIENT_LINK_H_
#define WEFT_CLIENT_LINK_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "adapters/adapter.h"
#include "adapters/encoding.h"
#include "proto/plan.pb.h"
#include "proto/service.pb.h"

namespace weft {

// The protocol as the daemon sees it, without transport. GrpcLink dials a coordinator; an in-process one serves the
// simulation. One link is one connection: after Receive has failed, make a new one. Thread rule: Receive from one
// thread; the rest from any.
class Link {
 public:
  virtual ~Link() = default;

  // Says hello and waits for the welcome. UNAVAILABLE: no coordinator (try again); ALREADY_EXISTS: this id is in use;
  // FAILED_PRECONDITION: protocol versions differ.
  virtual absl::StatusOr<proto::Welcome> Connect(const proto::Hello& hello) = 0;
  // Next message from the coordinator; blocks. UNAVAILABLE: connection lost; CANCELLED: Close was called.
  virtual absl::StatusOr<proto::ServerMessage> Receive() = 0;
  virtual absl::Status Send(const proto::ClientMessage& message) = 0;
  // Bytes moved so far and in all; returns false to cancel.
  using BytesFunction = std::function<bool(uint64_t done, uint64_t total)>;
  // The broadcast state that `request` asks for: what the coordinator does not send again is taken from `held`, the
  // state of request.have_round (null when that is not set). Of request.base_step: the step's tensors alone.
  virtual absl::StatusOr<Adapter> Download(const proto::DownloadRequest& request, const Adapter* held,
                                           std::shared_ptr<const Layout> job_layout, const BytesFunction& progress) = 0;
  // `components` as in TensorHeader. OK once the coordinator has accepted the update. ABORTED: no longer wanted;
  // ALREADY_EXISTS: it is accepted already.
  virtual absl::Status Upload(const proto::Update& update, const EncodedUpdate& tensors, const std::string& components,
                              const BytesFunction& progress) = 0;
  // Ends the connection; makes a blocked Receive return. Idempotent.
  virtual void Close() = 0;
};

}  // namespace weft

#endif  // WEFT_CLIENT_LINK_H_
