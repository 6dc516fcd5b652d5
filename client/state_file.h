#ifndef WEFT_CLIENT_STATE_FILE_H_
#define WEFT_CLIENT_STATE_FILE_H_

// A kept state as one safetensors file.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/kept_state.h"

namespace weft {

// File name for this job and client, safe whatever the two hold: "<job>@<client>.safetensors".
std::string StateFileName(const std::string& job_id, const std::string& client_id);
// What the names of all clients' files of a job begin with.
std::string StateFilePrefix(const std::string& job_id);

absl::Status WriteStateFile(const std::string& path, const std::string& job_id, const std::string& client_id,
                            const KeptState& state);
// NOT_FOUND: no such file. DATA_LOSS: damaged, or of another job or client.
absl::StatusOr<KeptState> ReadStateFile(const std::string& path, const std::string& job_id,
                                        const std::string& client_id);

// False also for a file that can't be read.
bool HoldsLocalTensors(const std::string& path);

}  // namespace weft

#endif  // WEFT_CLIENT_STATE_FILE_H_
