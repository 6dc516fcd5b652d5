#ifndef WEFT_SERVER_COORDINATOR_H_
#define WEFT_SERVER_COORDINATOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "adapters/adapter.h"
#include "adapters/codec.h"
#include "adapters/encoding.h"
#include "common/clock.h"
#include "proto/daemon.pb.h"
#include "proto/job.pb.h"
#include "proto/plan.pb.h"
#include "proto/service.pb.h"
#include "proto/status.pb.h"

namespace weft::server {

// Where the coordinator pushes messages for one connected client. Implemented by the gRPC service (and by the
// in-process link of the simulation). Both calls return at once and may come from any thread, also while the
// coordinator holds its lock: they must not call back.
class ClientChannel {
 public:
  virtual ~ClientChannel() = default;
  virtual void Send(const proto::ServerMessage& message) = 0;
  // The stream ends with this status; nothing is sent after.
  virtual void Close(const absl::Status& status) = 0;
};

// What an upload may become, decided before its tensors are read.
struct UploadTicket {
  uint64_t id = 0;
  // What the plan asked of this client.
  UpdateDecoder::Options expected;
};

// The tensors of a state that a client downloads, as StateEncoder takes them.
struct StateDownload {
  std::shared_ptr<const Adapter> state;
  std::shared_ptr<const Layout> layout;  // of all broadcast tensors; of a step of the base, its tensors
  std::shared_ptr<const Layout> job_layout;
  std::vector<std::string> roles;  // whose tensors follow; empty: all
};

// An adapter as exported: where the rule has changed the base, it acts on the base as it was before the job as the
// clients' model does, and adapter.config is that of its own rank.
struct ExportedAdapter {
  proto::ExportInfo info;
  std::shared_ptr<const Adapter> adapter;
};

// Owns jobs, rounds, the journal and the aggregate: the only place where the clock, the journal, the round state
// machine, the aggregator and the clients' channels meet. No gRPC and no HTTP here. Thread-safe. Runs one job at a
// time, in order of submission; a running job is resumed by Open from the journal.
class Coordinator {
 public:
  struct Options {
    proto::CoordinatorConfig config;  // defaults applied and validated
    const Clock* clock = nullptr;     // outlives the coordinator
    bool insecure = false;            // shown in the status
    // How often time-driven rules are looked at (a thread of the coordinator's own); zero: only by Tick, for tests.
    absl::Duration tick_interval = absl::Milliseconds(100);
  };

  // Opens or makes the journal and resumes. DATA_LOSS: damaged journal; FAILED_PRECONDITION: another coordinator holds
  // the state folder, or a journal of a newer version; RESOURCE_EXHAUSTED: disk full.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Open(const Options& options);
  virtual ~Coordinator() = default;

  // --- Federation: one call per thing a client does ---
  // INVALID_ARGUMENT: bad id or hello; FAILED_PRECONDITION: protocol version; ALREADY_EXISTS: another live client
  // (other instance) has this id. The same instance coming back replaces its old channel. Offers of the running job
  // follow on the channel after the welcome returned here was sent: `send_welcome` is called with it first.
  virtual absl::Status Join(const proto::Hello& hello, std::shared_ptr<ClientChannel> channel,
                            const std::function<void(const proto::Welcome&)>& send_welcome) = 0;
  // job_reply, progress, evaluation, failure, goodbye. An error is the client's fault and ends its stream with this
  // status; others are not affected.
  virtual absl::Status OnMessage(const std::string& client_id, const std::string& instance,
                                 const proto::ClientMessage& message) = 0;
  // The stream broke or ended. Ignored for an instance that is not the current one. Not for a stream that the
  // coordinator closed itself (ClientChannel::Close): the same instance may have come back on another one by then.
  virtual void Leave(const std::string& client_id, const std::string& instance) = 0;
  // What the client lacks of the state that plans start from, or a step of the base. NOT_FOUND: unknown job, or no such
  // step; ABORTED: the round is not the one that plans start from; FAILED_PRECONDITION: client not connected.
  virtual absl::StatusOr<StateDownload> Download(const proto::DownloadRequest& request) = 0;
  // Checks the facts (job, round, client, examples, rank) and the header before tensors are read, and reserves upload
  // memory (waits for it). FAILED_PRECONDITION: not selected; ABORTED: round over; ALREADY_EXISTS: this client's update
  // is in; INVALID_ARGUMENT: zero examples, a rank, encoding, layout or size other than the plan's.
  virtual absl::StatusOr<UploadTicket> BeginUpload(const proto::UploadStart& start) = 0;
  // `bytes` of the ticket's tensors have arrived in all (progress keeps the client alive). ABORTED: no longer wanted.
  virtual absl::Status UploadProgress(uint64_t ticket_id, uint64_t bytes) = 0;
  // The whole update, of the layout expected: validated by the rule, journaled, then accepted. Statuses as BeginUpload.
  virtual absl::Status FinishUpload(uint64_t ticket_id, EncodedUpdate update) = 0;
  // The upload failed (transport, bad chunk): frees the ticket; `why` is logged and shown, the client may try again.
  virtual void AbandonUpload(uint64_t ticket_id, const absl::Status& why) = 0;

  // --- Admin ---
  // Checks everything and queues the job. INVALID_ARGUMENT, FAILED_PRECONDITION with the reason. `warm_start` must have
  // the job's layout.
  virtual absl::StatusOr<std::string> Submit(proto::JobConfig config, std::optional<Adapter> warm_start) = 0;
  // The layout a job's adapter would have, for decoding a warm start. INVALID_ARGUMENT as Submit.
  virtual absl::StatusOr<std::shared_ptr<const Layout>> LayoutFor(const proto::JobConfig& config) = 0;
  // NOT_FOUND: no such job. Empty id: all jobs.
  virtual absl::StatusOr<proto::CoordinatorStatus> GetStatus(const std::string& job_id) = 0;
  // Grows at every change of what GetStatus shows.
  virtual uint64_t status_version() = 0;
  // Waits until status_version() > seen or the timeout passed (real time) or shutdown. Returns the version now.
  virtual uint64_t WaitForChange(uint64_t seen, absl::Duration timeout) = 0;
  // Ends a job now; its last committed round stays exportable. NOT_FOUND; FAILED_PRECONDITION: already ended.
  virtual absl::StatusOr<proto::JobStatus> Stop(const std::string& job_id) = 0;
  // `which`: "best", "last" or a round number. NOT_FOUND: job, or a round that is not kept (only initial, best and last
  // are).
  virtual absl::StatusOr<ExportedAdapter> Export(const std::string& job_id, const std::string& which) = 0;

  // Applies time-driven rules now.
  virtual void Tick() = 0;
  // Closes all channels with UNAVAILABLE "coordinator is shutting down", commits nothing more. Idempotent; the journal
  // stays resumable.
  virtual void Shutdown() = 0;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_COORDINATOR_H_
