#ifndef WEFT_CLIENT_CLIENT_APP_H_
#define WEFT_CLIENT_CLIENT_APP_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "training/trainer.h"

namespace weft {

using TrainerFactory = std::function<absl::StatusOr<std::unique_ptr<Trainer>>(const TrainerOptions&)>;

// The main of a client daemon: command line, client.yaml, checks of data, base and device, then the daemon over gRPC
// until SIGTERM or SIGINT. Ends within 5 s of the signal, with 0. Returns the exit code (common/exit_code.h); every
// error is one line on stderr.
int ClientMain(int argc, char** argv, const TrainerFactory& create_trainer);

}  // namespace weft

#endif  // WEFT_CLIENT_CLIENT_APP_H_
