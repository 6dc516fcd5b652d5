#ifndef WEFT_CLI_PYTHON_TOOL_H_
#define WEFT_CLI_PYTHON_TOOL_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::cli {

// A command of `weft` that a Python package under tools/ carries out.
struct PythonTool {
  std::string python;      // interpreter with the packages that it needs
  std::string pythonpath;  // folders that hold weft_<name> and what it imports
  std::string package;     // weft_<name>
};

// Looks upwards from each of `starts` for the folder that holds tools/<name>/weft_<name>: the workspace, or an
// installed bundle. The interpreter is `python_override` (from $WEFT_PYTHON) when not empty, else .venv/bin/python in
// that folder. NOT_FOUND says what is missing.
absl::StatusOr<PythonTool> FindPythonTool(const std::string& name, const std::vector<std::string>& starts,
                                          const std::string& python_override);

// Folders this binary may have been started from: as `argv0` names it, through PATH when it has no slash, and with
// links resolved.
std::vector<std::string> BinaryFolders(const std::string& argv0);

// Replaces this process by `python -m weft_<name> arguments...`; returns only when that fails.
absl::Status ExecPythonTool(const PythonTool& tool, const std::vector<std::string>& arguments);

}  // namespace weft::cli

#endif  // WEFT_CLI_PYTHON_TOOL_H_
