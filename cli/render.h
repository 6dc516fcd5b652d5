#ifndef WEFT_CLI_RENDER_H_
#define WEFT_CLI_RENDER_H_

// Status messages as text for people. Nothing here is meant to be parsed: programs take --format json.

#include <cstdint>
#include <string>

#include "proto/status.pb.h"

namespace weft::cli {

// "1.2 MB", in powers of 1000.
std::string HumanBytes(uint64_t bytes);
// "45s", "2m05s", "3h20m"; negative: "unknown".
std::string HumanSeconds(double seconds);
// "running", ...
std::string StateName(proto::JobState state);
bool HasEnded(proto::JobState state);
// Of the last round that was evaluated, "0.6213"; "-" when none was.
std::string LastAccuracy(const proto::JobStatus& job);

// A table with one line per job.
std::string JobTable(const proto::CoordinatorStatus& status);
// The coordinator, its jobs in full and its clients.
std::string StatusText(const proto::CoordinatorStatus& status);
// One job: head lines and its latest rounds, at most `max_rounds` of them.
std::string JobText(const proto::JobStatus& job, int max_rounds);
// One line for logs.
std::string JobLine(const proto::JobStatus& job);

}  // namespace weft::cli

#endif  // WEFT_CLI_RENDER_H_
