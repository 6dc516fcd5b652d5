#ifndef WEFT_CLI_WATCH_H_
#define WEFT_CLI_WATCH_H_

#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/admin_client.h"
#include "common/exit_code.h"

namespace weft::cli {

enum class WatchFormat {
  kBlock,  // a terminal: one block, drawn over
  kLines,  // a line per change
  kJson,   // a JSON document per change, each on its line
};

struct WatchOptions {
  WatchFormat format = WatchFormat::kLines;
  // A coordinator that is gone in the middle may be restarted: how long to try again.
  absl::Duration patience = absl::Minutes(1);
};

// Shows a job's progress until it ends. Empty id: the job that runs or waits, else the latest. The exit code says how
// it ended: finished 0, stopped 7, failed 9. NOT_FOUND: no such job, or none at all.
absl::StatusOr<ExitCode> WatchJob(AdminClient& admin, std::string job_id, const WatchOptions& options,
                                  std::ostream& out);

}  // namespace weft::cli

#endif  // WEFT_CLI_WATCH_H_
