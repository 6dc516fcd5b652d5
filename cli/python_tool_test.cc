#include "cli/python_tool.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/match.h"
#include "common/file.h"

namespace weft::cli {
namespace {

namespace fs = std::filesystem;

class PythonToolTest : public testing::Test {
 protected:
  PythonToolTest() : root_(fs::path(testing::TempDir()) / "bundle") {
    fs::remove_all(root_);
    fs::create_directories(root_ / "tools/prepare/weft_prepare");
    fs::create_directories(root_ / "bin/cli");
  }
  void MakePython() {
    fs::create_directories(root_ / ".venv/bin");
    ASSERT_TRUE(WriteFileAtomically(python(), "#!/bin/sh\n").ok());
    chmod(python().c_str(), 0755);
  }
  std::string python() const { return (root_ / ".venv/bin/python").string(); }
  std::string start() const { return (root_ / "bin/cli").string(); }

  const fs::path root_;
};

TEST_F(PythonToolTest, FindPythonTool_EnvironmentAboveTheBinary) {
  MakePython();
  const auto tool = FindPythonTool("prepare", {"/", start()}, "");
  ASSERT_TRUE(tool.ok()) << tool.status();
  EXPECT_EQ(tool->python, python());
  EXPECT_EQ(tool->pythonpath, (root_ / "tools/prepare").string());
  EXPECT_EQ(tool->package, "weft_prepare");
}

TEST_F(PythonToolTest, FindPythonTool_OthersImportWhatPrepareHas) {
  MakePython();
  fs::create_directories(root_ / "tools/generate/weft_generate");
  const auto tool = FindPythonTool("generate", {start()}, "");
  ASSERT_TRUE(tool.ok()) << tool.status();
  EXPECT_EQ(tool->pythonpath, (root_ / "tools/generate").string() + ":" + (root_ / "tools/prepare").string());
  EXPECT_EQ(tool->package, "weft_generate");
}

TEST_F(PythonToolTest, FindPythonTool_OverrideComesFirst) {
  MakePython();
  const auto tool = FindPythonTool("prepare", {start()}, "/usr/bin/python3");
  ASSERT_TRUE(tool.ok()) << tool.status();
  EXPECT_EQ(tool->python, "/usr/bin/python3");
}

TEST_F(PythonToolTest, FindPythonTool_NoEnvironment) {
  const absl::Status status = FindPythonTool("prepare", {start()}, "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), "WEFT_PYTHON")) << status;
}

TEST_F(PythonToolTest, FindPythonTool_NoPackage) {
  const absl::Status status = FindPythonTool("prepare", {"/"}, "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), "tools/prepare/weft_prepare")) << status;
}

TEST_F(PythonToolTest, FindPythonTool_NameOfNone) {
  const absl::Status status = FindPythonTool("sing", {start()}, "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), "tools/sing/weft_sing")) << status;
}

TEST_F(PythonToolTest, BinaryFolders_AsNamedAndResolved) {
  const std::vector<std::string> folders = BinaryFolders((root_ / "bin/cli/weft").string());
  ASSERT_EQ(folders.size(), 2u);
  EXPECT_EQ(folders[0], start());
}

TEST_F(PythonToolTest, BinaryFolders_ThroughPath) {
  MakePython();
  setenv("PATH", ("/nowhere:" + (root_ / ".venv/bin").string()).c_str(), 1);
  EXPECT_EQ(BinaryFolders("python")[0], (root_ / ".venv/bin").string());
}

TEST_F(PythonToolTest, ExecPythonTool_InterpreterThatIsNotThere) {
  const absl::Status status = ExecPythonTool({"/nowhere/python", "/", "weft_prepare"}, {"--help"});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), "/nowhere/python")) << status;
}

}  // namespace
}  // namespace weft::cli
