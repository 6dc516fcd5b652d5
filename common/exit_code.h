#ifndef WEFT_COMMON_EXIT_CODE_H_
#define WEFT_COMMON_EXIT_CODE_H_

#include <string>

#include "absl/status/status.h"

namespace weft {

// Exit codes of all binaries, documented in docs/operations.md.
enum ExitCode : int {
  kExitOk = 0,
  kExitInternal = 1,     // a bug of ours, or an error without a better code
  kExitUsage = 2,        // command line or configuration wrong (INVALID_ARGUMENT, OUT_OF_RANGE)
  kExitNotFound = 3,     // file, job or round missing (NOT_FOUND)
  kExitUnavailable = 4,  // coordinator can't be reached, port in use (UNAVAILABLE, DEADLINE_EXCEEDED)
  kExitRefused = 5,      // refused by the other side or in this state (FAILED_PRECONDITION, ALREADY_EXISTS,
                         // PERMISSION_DENIED, UNAUTHENTICATED)
  kExitResources = 6,    // disk, memory or budget exhausted (RESOURCE_EXHAUSTED)
  kExitCancelled = 7,    // stopped by a user (CANCELLED, ABORTED)
  kExitDataLoss = 8,     // corrupted file or journal (DATA_LOSS)
  kExitJobFailed = 9,    // `weft watch`: the job ended as FAILED
};

ExitCode ExitCodeFor(const absl::Status& status);

// One line for stderr: "weft-client: INVALID_ARGUMENT: message".
std::string ErrorLine(const char* program, const absl::Status& status);

}  // namespace weft

#endif  // WEFT_COMMON_EXIT_CODE_H_
