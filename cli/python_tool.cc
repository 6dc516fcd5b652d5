#include "cli/python_tool.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace weft::cli {
namespace {

namespace fs = std::filesystem;

// Empty when no ancestor of `start` (or itself) holds `folder`. Lexical, so that Bazel's link bazel-bin leads to the
// workspace.
fs::path FindRoot(const fs::path& start, const std::string& folder) {
  std::error_code ignored;
  for (fs::path root = start.lexically_normal();; root = root.parent_path()) {
    if (fs::is_directory(root / folder, ignored)) return root;
    if (root == root.parent_path()) return {};
  }
}

}  // namespace

absl::StatusOr<PythonTool> FindPythonTool(const std::string& name, const std::vector<std::string>& starts,
                                          const std::string& python_override) {
  const std::string package = absl::StrCat("weft_", name), folder = absl::StrCat("tools/", name, "/", package);
  for (const std::string& start : starts) {
    const fs::path root = FindRoot(start, folder);
    if (root.empty()) continue;
    std::string pythonpath = (root / "tools" / name).string();
    // Which the others take tokenizers, chat templates and errors from.
    if (name != "prepare") absl::StrAppend(&pythonpath, ":", (root / "tools/prepare").string());
    if (!python_override.empty()) return PythonTool{python_override, pythonpath, package};
    const fs::path python = root / ".venv/bin/python";
    if (access(python.c_str(), X_OK) == 0) return PythonTool{python.string(), pythonpath, package};
    return absl::NotFoundError(
        absl::StrCat("no Python environment at ", (root / ".venv").string(),
                     "; make it by deploy/setup.sh, of a bundle as its README.txt says, or set WEFT_PYTHON"));
  }
  return absl::NotFoundError(absl::StrCat("no folder above ", starts.empty() ? "the binary" : starts.front(), " holds ",
                                          folder, "; run weft from its workspace or bundle"));
}

std::vector<std::string> BinaryFolders(const std::string& argv0) {
  std::vector<std::string> folders;
  std::error_code error;
  if (argv0.find('/') != std::string::npos) {
    folders.push_back(fs::absolute(argv0, error).parent_path().string());
  } else if (const char* path = std::getenv("PATH"); path != nullptr) {
    for (const absl::string_view folder : absl::StrSplit(path, ':', absl::SkipEmpty())) {
      const fs::path candidate = fs::path(std::string(folder)) / argv0;
      if (access(candidate.c_str(), X_OK) != 0) continue;
      folders.push_back(fs::absolute(candidate, error).parent_path().string());
      break;
    }
  }
  const fs::path resolved = fs::read_symlink("/proc/self/exe", error);
  if (!error) folders.push_back(resolved.parent_path().string());
  return folders;
}

absl::Status ExecPythonTool(const PythonTool& tool, const std::vector<std::string>& arguments) {
  const char* inherited = std::getenv("PYTHONPATH");
  const std::string pythonpath =
      inherited != nullptr && *inherited != 0 ? absl::StrCat(tool.pythonpath, ":", inherited) : tool.pythonpath;
  setenv("PYTHONPATH", pythonpath.c_str(), /*overwrite=*/1);
  std::vector<std::string> words = {tool.python, "-m", tool.package};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  return absl::NotFoundError(absl::StrCat("cannot run ", tool.python, ": ", std::strerror(errno),
                                          "; set WEFT_PYTHON to a Python interpreter"));
}

}  // namespace weft::cli
