#ifndef WEFT_SIMULATION_RUNNER_H_
#define WEFT_SIMULATION_RUNNER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "client/local_update.h"
#include "client/state_store.h"
#include "proto/status.pb.h"
#include "server/broadcast/broadcast.h"
#include "server/submit_check.h"
#include "training/data/shard.h"
#include "training/trainer.h"

namespace weft::simulation {

// What a hostile client does to what it has trained, before it is sent.
struct Attack {
  enum class Kind { kNone, kScale, kNoise, kNan };
  Kind kind = Kind::kNone;
  // kScale: its change is multiplied with this (negative: sign flip). kNoise: standard deviation of a normal deviate in
  // place of each value of its change.
  double factor = 1;
};

// A client without a process.
struct VirtualClient {
  std::string id;
  const DataFolder* data = nullptr;  // outlives the runner
  int64_t max_rank = 0;              // as ClientConfig.max_rank
  Attack attack;
};

struct RoundReport {
  int64_t round = 0;
  int64_t selected = 0;
  int64_t updates = 0;                        // accepted
  int64_t refused = 0;                        // by the rule
  double train_loss = 0;                      // mean over updates, weighted by examples, in nats
  uint64_t bytes_up = 0, bytes_down = 0;      // tensor bytes, all clients together
  proto::RoundStatus evaluation;              // its figures alone: accuracy, loss, f1, ...; none when not evaluated
  std::map<std::string, double> accuracy_of;  // by client
  double seconds = 0;
};

// The rounds of one job over virtual clients, in this process and on this thread: selection, rule, codec, trainer and
// the client's half are those of a deployment; the link between them is a call, over which every update and every
// broadcast passes encoded, checked and counted. Nothing is journaled. Updates of a cohort are folded in order of
// client id.
class Runner {
 public:
  struct Options {
    server::CheckedJob job;
    Trainer* trainer = nullptr;          // of the job's base; outlives the runner
    std::vector<VirtualClient> clients;  // ascending ids, no repeats
    int threads = 1;                     // of folds
    // Where each round's start, decoded updates and result are written as safetensors; empty: nowhere.
    std::string dump;
  };
  // INVALID_ARGUMENT: no clients, a job the trainer can't lay out, ranks under a rule that takes none.
  static absl::StatusOr<std::unique_ptr<Runner>> Create(Options options);

  // The next round. Errors of the rule or of the trainer (a loss that is no number: OUT_OF_RANGE) end the run.
  absl::StatusOr<RoundReport> Step(bool evaluate);
  int64_t round() const { return round_; }
  const Adapter& state() const { return *broadcast_->state(); }

 private:
  explicit Runner(Options options) : options_(std::move(options)) {}
  absl::Status Start();
  absl::Status Publish(Adapter state);
  LocalJob JobOf(const VirtualClient& client) const;
  uint64_t Download(const VirtualClient& client);
  absl::Status Round(const std::vector<const VirtualClient*>& cohort, RoundReport* report);
  absl::Status Evaluate(RoundReport* report);
  absl::Status Dump(const std::string& name, const Adapter& adapter) const;

  Options options_;
  std::string job_id_;
  std::shared_ptr<const Layout> layout_;
  std::shared_ptr<server::Broadcast> broadcast_;
  std::shared_ptr<const Adapter> received_;  // the broadcast tensors, as every client holds them
  std::unique_ptr<StateStore> store_;
  std::map<std::string, server::RoleHashes> held_;  // by client, as of its last download
  std::map<std::string, int64_t> base_steps_;       // by client: the last step of the base downloaded
  std::map<int64_t, uint64_t> base_step_bytes_;     // by round
  std::vector<std::string> roles_local_;
  int64_t round_ = 0;  // committed
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_RUNNER_H_
