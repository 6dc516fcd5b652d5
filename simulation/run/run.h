#ifndef WEFT_SIMULATION_RUN_RUN_H_
#define WEFT_SIMULATION_RUN_RUN_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/scenario.pb.h"
#include "proto/status.pb.h"
#include "simulation/engine/engine.h"
#include "simulation/ranks/workers.h"
#include "simulation/run/prepare.h"

namespace weft::simulation {

// What the engine is to do by this scenario, without a folder and other ranks.
absl::StatusOr<Engine::Options> EngineOptionsOf(const proto::Scenario& scenario, const PreparedRun& prepared);

// How a run is carried out from a scenario to its folder.
struct RunOptions {
  proto::Scenario scenario;  // with defaults, without a sweep
  std::string folder;        // of its results; a run that was cut off goes on there
  TrainerFor trainer;
  // Called after each round, `total` as far as is known; false: stop, to be gone on with later.
  std::function<bool(const proto::RoundStatus& round, int64_t total)> progress;
  Workers* workers = nullptr;  // other ranks; null: one
  int64_t number = 0;          // of the run in its scenario's file, as ServeOptions counts
};

enum class RunEnd { kFinished, kFailed, kStopped, kFinishedBefore };

// Runs it, or what is left of it, and writes everything of report/run_folder.h, and the adapter as a Hugging Face
// folder. What the folder holds of a finished run of the same scenario is left as it is. Errors: INVALID_ARGUMENT and
// NOT_FOUND of the scenario, its base and data; RESOURCE_EXHAUSTED: more memory than run.memory_bytes, or a full disk;
// goes on from the last committed round when called again.
absl::StatusOr<RunEnd> CarryOut(const RunOptions& options);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_RUN_RUN_H_
