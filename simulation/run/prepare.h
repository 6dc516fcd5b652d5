#ifndef WEFT_SIMULATION_RUN_PREPARE_H_
#define WEFT_SIMULATION_RUN_PREPARE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/scenario.pb.h"
#include "server/submit_check.h"
#include "simulation/behaviour/behaviour.h"
#include "simulation/cohort/site.h"
#include "simulation/population/population.h"
#include "training/trainer.h"

namespace weft::simulation {

// What a scenario comes to before anything is computed, at rank 0 and at all others.
struct PreparedRun {
  std::unique_ptr<Population> population;
  std::unique_ptr<Behaviour> behaviour;
  Trainer* trainer = nullptr;
  std::unique_ptr<const server::CheckedJob> job;  // folds refer to it
  int threads = 1;

  Site site() const { return {job.get(), trainer, population.get(), behaviour.get(), threads}; }
  // A row brings about so many tokens to a pass.
  double TokensPerRow() const;
};

// The trainer for a base folder and device, of one thread and one pass a call, so many calls side by side on a CPU; it
// may be shared by runs one after another.
using TrainerFor = std::function<absl::StatusOr<Trainer*>(const proto::Scenario& scenario, int calls)>;

// Of the contents of the data and of the traces and cohorts that the scenario reads, whatever the folders are called.
absl::StatusOr<std::string> DataHashOf(const proto::Scenario& scenario);

// Ranks on this machine, from the environment (LOCAL_WORLD_SIZE of torchrun); 1 where nothing says so.
int LocalRanks();

// With run.threads 0 the cores of this machine are shared out among its `local_ranks`. INVALID_ARGUMENT, NOT_FOUND: a
// scenario, base or data that can't run.
absl::StatusOr<PreparedRun> Prepare(const proto::Scenario& scenario, const TrainerFor& trainer, int local_ranks);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_RUN_PREPARE_H_
