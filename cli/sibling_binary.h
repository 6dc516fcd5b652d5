#ifndef WEFT_CLI_GENERATE_H_
#define WEFT_CLI_GENERATE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace weft::cli {

// The binary weft-generate, which `weft generate` runs: in one of `folders` (an installed bundle), or where Bazel puts
// it beside them. NOT_FOUND says where it was looked for.
absl::StatusOr<std::string> FindGenerateBinary(const std::vector<std::string>& folders);

}  // namespace weft::cli

#endif  // WEFT_CLI_GENERATE_H_
