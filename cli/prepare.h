#ifndef WEFT_CLI_PREPARE_H_
#define WEFT_CLI_PREPARE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::cli {

// What `weft prepare` runs.
struct PrepareCommand {
  std::string python;      // interpreter with the packages that weft_prepare needs
  std::string pythonpath;  // folder that holds the package weft_prepare
};

// Looks upwards from each of `starts` for the folder that holds tools/prepare/weft_prepare: the workspace, or an
// installed bundle. The interpreter is `python_override` (from $WEFT_PYTHON) when not empty, else .venv/bin/python in
// that folder. NOT_FOUND says what is missing.
absl::StatusOr<PrepareCommand> FindPrepare(const std::vector<std::string>& starts, const std::string& python_override);

// Folders this binary may have been started from: as `argv0` names it, through PATH when it has no slash, and with
// links resolved.
std::vector<std::string> BinaryFolders(const std::string& argv0);

// Replaces this process by `python -m weft_prepare arguments...`; returns only when that fails.
absl::Status ExecPrepare(const PrepareCommand& command, const std::vector<std::string>& arguments);

}  // namespace weft::cli

#endif  // WEFT_CLI_PREPARE_H_
