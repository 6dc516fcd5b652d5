#ifndef WEFT_SIMULATION_COHORT_COHORT_H_
#define WEFT_SIMULATION_COHORT_COHORT_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "simulation/cohort/group_trainer.h"
#include "simulation/ranks/workers.h"

namespace weft::simulation {

// Groups trained at a time for each thread: enough that threads rarely wait for the last one.
inline constexpr int kGroupsPerThread = 4;
// Ranks wait for each other at the end of each window, which then had better be wide.
inline constexpr int kGroupsPerThreadOfRanks = 8;

// The local work of the clients of one attempt. Groups are cut from the clients in the order given, so that they, and
// with them every bit, depend on the scenario alone. A group is trained when an update of it is first asked for, with
// the groups that come next, side by side on so many threads of this rank and on the other ranks, to which they are
// dealt by their work; what is never asked for need not be trained. Not thread-safe.
class Cohort {
 public:
  struct Options {
    GroupTrainer::Options training;
    int threads = 1;
    double tokens_per_pass = 0;
    Workers* workers = nullptr;  // null: one rank
    // Clients trained at a time, over all ranks; one group in any case.
    int64_t most_in_flight = std::numeric_limits<int64_t>::max();
  };
  Cohort(Options options, std::vector<CohortClient> clients);

  // The update of a client, each once. The inner error is of that client alone; the outer one of the run.
  absl::StatusOr<absl::StatusOr<SentUpdate>> Take(int64_t index);

  int64_t groups() const { return static_cast<int64_t>(groups_.size()); }

 private:
  struct Group {
    std::vector<size_t> clients;
    double work = 0;
    bool trained = false;
  };

  absl::Status TrainFrom(size_t group);
  std::vector<Group*> Window(size_t first);
  std::vector<std::vector<Group*>> Deal(std::vector<Group*> window) const;
  absl::Status Send(int worker, const std::vector<Group*>& groups);
  absl::Status TrainHere(const std::vector<Group*>& groups);
  absl::Status Collect(int worker, const std::vector<Group*>& groups);
  std::vector<const CohortClient*> ClientsOf(const Group& group) const;

  const Options options_;
  const GroupTrainer trainer_;
  const std::vector<CohortClient> clients_;
  std::vector<Group> groups_;
  std::unordered_map<int64_t, size_t> place_;                       // of a client by its index
  std::vector<size_t> group_of_;                                    // of each client
  std::vector<std::optional<absl::StatusOr<SentUpdate>>> results_;  // of each client
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_COHORT_COHORT_H_
