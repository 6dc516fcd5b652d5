#ifndef WEFT_SIMULATION_RANKS_LINK_H_
#define WEFT_SIMULATION_RANKS_LINK_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::simulation {

// Between the processes of one simulation. Not thread-safe.
class Link {
 public:
  virtual ~Link() = default;
  virtual int rank() const = 0;
  virtual int ranks() const = 0;
  // May wait until the other rank receives. UNAVAILABLE: it has gone.
  virtual absl::Status Send(int to, std::string_view bytes) = 0;
  // Waits however long it takes, in the order sent.
  virtual absl::StatusOr<std::string> Receive(int from) = 0;
};

// The link of torch.distributed over Gloo, from the environment as torchrun sets it: RANK, WORLD_SIZE, MASTER_ADDR,
// MASTER_PORT (29500); under Slurm SLURM_PROCID and SLURM_NTASKS count where the first two are not there. Null: one
// rank. GLOO_SOCKET_IFNAME names the network interface. INVALID_ARGUMENT: a value that is none. UNAVAILABLE: not all
// ranks came within a few minutes.
absl::StatusOr<std::unique_ptr<Link>> LinkFromEnvironment();

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_RANKS_LINK_H_
