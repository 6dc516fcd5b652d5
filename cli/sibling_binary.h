#ifndef WEFT_CLI_SIBLING_BINARY_H_
#define WEFT_CLI_SIBLING_BINARY_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::cli {

// A binary that a command of `weft` runs: it links what the command line does without (LibTorch).
struct SiblingBinary {
  std::string name;     // "weft-generate"
  std::string package;  // Bazel's, "training/generate"
};

// In one of `folders` (an installed bundle), or where Bazel puts it beside them. NOT_FOUND says where it was looked
// for.
absl::StatusOr<std::string> FindSiblingBinary(const SiblingBinary& binary, const std::vector<std::string>& folders);

// Replaces this process by `path arguments...`; returns only when that fails.
absl::Status ExecBinary(const std::string& path, const std::vector<std::string>& arguments);

}  // namespace weft::cli

#endif  // WEFT_CLI_SIBLING_BINARY_H_
