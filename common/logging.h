#ifndef WEFT_COMMON_LOGGING_H_
#define WEFT_COMMON_LOGGING_H_

#include <memory>
#include <string>

#include <spdlog/spdlog.h>

namespace weft {

// The logger of one component ("server.round", "client"), made on first use; all write to stderr. Messages are
// key=value with job, round, client; never tensor values, data or secrets. Thread-safe.
std::shared_ptr<spdlog::logger> Logger(const std::string& component);

// "debug", "info", "warn" or "error", for every logger made so far and later.
void SetLogLevel(const std::string& level);

}  // namespace weft

#endif  // WEFT_COMMON_LOGGING_H_
