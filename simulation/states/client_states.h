#ifndef WEFT_SIMULATION_STATES_CLIENT_STATES_H_
#define WEFT_SIMULATION_STATES_CLIENT_STATES_H_

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/kept_state.h"
#include "common/mutex.h"
#include "simulation/states/state_log.h"

namespace weft::simulation {

// What virtual clients keep between rounds, as of the last committed round and the updates accepted since. With a
// folder: on disk (state_log.h), and in memory as much as was last asked for and fits; what a client without a state
// costs is nothing. Get is thread-safe; the rest is for one thread, while nobody calls Get.
class ClientStates {
 public:
  struct Options {
    std::string folder;        // made when missing; empty: all in memory, however much
    int64_t memory_bytes = 0;  // of states that are on disk too
    int64_t round = 0;         // last committed; what the folder holds of later ones is forgotten
  };
  // DATA_LOSS: a damaged log, or one that lacks committed rounds.
  static absl::StatusOr<std::unique_ptr<ClientStates>> Open(const Options& options);

  // Never null: fresh when nothing is kept. An error: its place on disk can't be read.
  absl::StatusOr<std::shared_ptr<const KeptState>> Get(int64_t client);
  // The client's state from now on; durable with the next Commit.
  void Stage(int64_t client, KeptState state);
  // Everything staged belongs to this round. RESOURCE_EXHAUSTED: disk full; nothing has changed and the call may be
  // repeated. The rounds before must be committed by whoever decides that they are (server/journal), since they can't
  // be gone back to any more.
  absl::Status Commit(int64_t round);

  int64_t clients() const { return log_ == nullptr ? static_cast<int64_t>(staged_.size()) : log_->clients(); }
  // Of states in memory that are on disk too.
  int64_t memory_bytes() const { return cached_bytes_; }

 private:
  struct Cached {
    std::shared_ptr<const KeptState> state;
    std::list<int64_t>::iterator place;  // in recent_
  };

  explicit ClientStates(const Options& options) : options_(options) {}
  void Remember(int64_t client, std::shared_ptr<const KeptState> state);

  const Options options_;
  std::unique_ptr<StateLog> log_;                               // null: memory only
  std::map<int64_t, std::shared_ptr<const KeptState>> staged_;  // without a log: all
  Mutex mutex_;
  std::unordered_map<int64_t, Cached> cached_;  // guarded by mutex_, as what follows
  std::list<int64_t> recent_;                   // last asked for first
  int64_t cached_bytes_ = 0;
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_STATES_CLIENT_STATES_H_
