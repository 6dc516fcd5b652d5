#ifndef WEFT_SIMULATION_COHORT_SITE_H_
#define WEFT_SIMULATION_COHORT_SITE_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "client/kept_state.h"
#include "server/broadcast/broadcast.h"
#include "server/fold.h"
#include "server/submit_check.h"
#include "simulation/behaviour/behaviour.h"
#include "simulation/cohort/group_trainer.h"
#include "simulation/population/population.h"
#include "training/trainer.h"

namespace weft::simulation {

// What each rank has of a run, made from the scenario alone. What is pointed to outlives it.
struct Site {
  const server::CheckedJob* job = nullptr;
  Trainer* trainer = nullptr;
  const Population* population = nullptr;
  const Behaviour* behaviour = nullptr;
  int threads = 1;
};

// Makes the trainer ready, with the base as it is before round 1.
absl::StatusOr<std::shared_ptr<const Layout>> PrepareTrainer(const Site& site);

// The fold of an attempt at `round` from `state`.
absl::StatusOr<std::shared_ptr<server::Fold>> MakeFold(const Site& site, std::shared_ptr<const Adapter> state,
                                                       int64_t round, int64_t updates);

// The state before round 1, from `initial` (null: seeded values).
absl::StatusOr<std::shared_ptr<const Adapter>> InitialStateOf(const Site& site, const Adapter* initial);

// Bytes at most that a client of such a plan keeps between rounds; 0: nothing of size.
int64_t KeptBytes(const Site& site, const proto::Plan& plan);

// What clients hold of it.
std::shared_ptr<const Adapter> ReceivedOf(const server::Broadcast& broadcast);

// How clients of the attempt of `fold` are trained.
GroupTrainer::Options TrainingOf(const Site& site, std::shared_ptr<const Layout> layout,
                                 std::shared_ptr<server::Fold> fold, std::shared_ptr<const Adapter> received,
                                 std::function<absl::StatusOr<std::shared_ptr<const KeptState>>(int64_t)> kept);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_COHORT_SITE_H_
