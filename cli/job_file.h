#ifndef WEFT_CLI_JOB_FILE_H_
#define WEFT_CLI_JOB_FILE_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "proto/job.pb.h"

namespace weft::cli {

// A job ready to be sent.
struct LoadedJob {
  proto::JobConfig config;
  std::optional<Adapter> warm_start;
};

// Reads job.yaml and what it names on this machine: the base's hash and config.json from base.path, label names from
// task.labels_file, tensors from warm_start. Paths are relative to the folder the command runs in. NOT_FOUND or
// INVALID_ARGUMENT naming the key.
absl::StatusOr<LoadedJob> LoadJob(const std::string& path, const std::vector<std::string>& overrides);

}  // namespace weft::cli

#endif  // WEFT_CLI_JOB_FILE_H_
