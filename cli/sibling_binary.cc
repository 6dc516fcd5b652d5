#include "cli/sibling_binary.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace weft::cli {

absl::StatusOr<std::string> FindSiblingBinary(const SiblingBinary& binary, const std::vector<std::string>& folders) {
  for (const std::string& folder : folders) {
    // The latter of bazel-bin/cli.
    for (const std::string& place : {binary.name, absl::StrCat("../", binary.package, "/", binary.name)}) {
      const std::string path = (std::filesystem::path(folder) / place).lexically_normal().string();
      if (access(path.c_str(), X_OK) == 0) return path;
    }
  }
  return absl::NotFoundError(absl::StrCat("no ", binary.name, " beside ",
                                          folders.empty() ? "the binary" : folders.front(), "; build //",
                                          binary.package, ":", binary.name, ", or run weft from its bundle"));
}

absl::Status ExecBinary(const std::string& path, const std::vector<std::string>& arguments) {
  std::vector<std::string> words = arguments;
  std::vector<char*> argv = {const_cast<char*>(path.c_str())};
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execv(path.c_str(), argv.data());
  return absl::NotFoundError(absl::StrCat("cannot run ", path, ": ", std::strerror(errno)));
}

}  // namespace weft::cli
