#ifndef WEFT_SIMULATION_RANKS_WORKERS_H_
#define WEFT_SIMULATION_RANKS_WORKERS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "server/fold.h"
#include "simulation/cohort/group_trainer.h"
#include "simulation/ranks/link.h"
#include "simulation/ranks/messages.pb.h"

namespace weft::simulation {

// The other ranks of a simulation as rank 0 sees them, by number from 1 (ranks/serve.h is their half). What clients
// keep lies at rank 0 alone and travels with the work; updates stay where they were made, and their sums are merged.
// Not thread-safe. Errors: those of a rank; UNAVAILABLE when it has gone; RESOURCE_EXHAUSTED: a message too long.
class Workers {
 public:
  // What clients keep, of all that train at a time, had better not be more: a message holds 2^31 - 1 bytes.
  static constexpr int64_t kMostBytes = int64_t{3} << 29;

  explicit Workers(Link* link) : link_(link), accepted_(link->ranks()), answer_due_(link->ranks()) {}

  int ranks() const { return link_->ranks(); }

  absl::Status OpenRun(const simulation::OpenRun& run);
  // `base_steps`: of all committed rounds of the run.
  absl::Status OpenAttempt(int64_t round, int64_t updates, const Adapter& state,
                           const std::vector<std::pair<int64_t, std::shared_ptr<const Adapter>>>& base_steps);
  // Groups of clients by index, each for one pass. Trained must follow before anything else is asked of that rank.
  absl::Status Train(int rank, const std::vector<std::vector<int64_t>>& groups,
                     const std::function<absl::StatusOr<std::shared_ptr<const KeptState>>(int64_t)>& kept);
  absl::StatusOr<std::vector<absl::StatusOr<SentUpdate>>> Trained(int rank);
  // The update of a client that this rank has trained was accepted; the rank is told with what it is asked next.
  void Accept(int rank, int64_t client) { accepted_[rank].push_back(client); }
  // Merges what all have accepted of the attempt into `fold`.
  absl::Status MergeInto(server::Fold* fold);
  // Ends their processes with that exit code, as far as they are still there.
  void Quit(int exit_code);

 private:
  absl::Status Send(int rank, const Command& command);
  absl::Status SendAll(const Command& command);
  absl::StatusOr<Answer> ReceiveAnswer(int rank);

  Link* const link_;
  size_t steps_sent_ = 0;
  std::vector<std::vector<int64_t>> accepted_;  // by rank: not told yet
  std::vector<bool> answer_due_;                // by rank
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_RANKS_WORKERS_H_
