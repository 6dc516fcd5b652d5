#include "cli/generate.h"

#include <unistd.h>

#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace weft::cli {

absl::StatusOr<std::string> FindGenerateBinary(const std::vector<std::string>& folders) {
  for (const std::string& folder : folders) {
    // The latter of bazel-bin/cli.
    for (const char* place : {"weft-generate", "../training/generate/weft-generate"}) {
      const std::string path = (std::filesystem::path(folder) / place).lexically_normal().string();
      if (access(path.c_str(), X_OK) == 0) return path;
    }
  }
  return absl::NotFoundError(absl::StrCat("no weft-generate beside ", folders.empty() ? "the binary" : folders.front(),
                                          "; build //training/generate:weft-generate, or run weft from its bundle"));
}

}  // namespace weft::cli
