#ifndef WEFT_SIMULATION_RUN_SERVE_H_
#define WEFT_SIMULATION_RUN_SERVE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/scenario.pb.h"
#include "simulation/ranks/link.h"
#include "simulation/run/prepare.h"

namespace weft::simulation {

struct ServeOptions {
  Link* link = nullptr;
  // The run of that number, with defaults, without a sweep. INVALID_ARGUMENT: there is none.
  std::function<absl::StatusOr<proto::Scenario>(int64_t number)> scenario;
  TrainerFor trainer;
};

// The half of every rank but 0: trains the clients that rank 0 deals to it and sums what rank 0 accepts, until rank 0
// says that all is over; the exit code of rank 0. UNAVAILABLE: rank 0 has gone.
absl::StatusOr<int> Serve(const ServeOptions& options);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_RUN_SERVE_H_
