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
#include "training/trainer.h"

namespace weft::simulation {

// How a run is carried out from a scenario to its folder.
struct RunOptions {
  proto::Scenario scenario;  // with defaults, without a sweep
  std::string folder;        // of its results; a run that was cut off goes on there
  // The trainer for a base folder and device, of one thread and one pass a call; it may be shared by runs one after
  // another.
  std::function<absl::StatusOr<Trainer*>(const proto::Scenario& scenario)> trainer;
  // Called after each round, `total` as far as is known; false: stop, to be gone on with later.
  std::function<bool(const proto::RoundStatus& round, int64_t total)> progress;
};

enum class RunEnd { kFinished, kFailed, kStopped, kFinishedBefore };

// Runs it, or what is left of it, and writes everything of report/run_folder.h, and the adapter as a Hugging Face
// folder. What the folder holds of a finished run of the same scenario is left as it is. Errors: INVALID_ARGUMENT and
// NOT_FOUND of the scenario, its base and data; RESOURCE_EXHAUSTED: more memory than run.memory_bytes, or a full disk;
// goes on from the last committed round when called again.
absl::StatusOr<RunEnd> CarryOut(const RunOptions& options);

// Threads that a scenario asks for, on this machine.
int ThreadsOf(const proto::Scenario& scenario);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_RUN_RUN_H_
