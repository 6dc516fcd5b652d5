#include "cli/prepare.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/match.h"
#include "common/file.h"

namespace weft::cli {
namespace {

namespace fs = std::filesystem;

class PrepareTest : public testing::Test {
 protected:
  PrepareTest() : root_(fs::path(testing::TempDir()) / "bundle") {
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

TEST_F(PrepareTest, FindPrepare_EnvironmentAboveTheBinary) {
  MakePython();
  const auto command = FindPrepare({"/", start()}, "");
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(command->python, python());
  EXPECT_EQ(command->pythonpath, (root_ / "tools/prepare").string());
}

TEST_F(PrepareTest, FindPrepare_OverrideComesFirst) {
  MakePython();
  const auto command = FindPrepare({start()}, "/usr/bin/python3");
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(command->python, "/usr/bin/python3");
}

TEST_F(PrepareTest, FindPrepare_NoEnvironment) {
  const absl::Status status = FindPrepare({start()}, "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), "WEFT_PYTHON")) << status;
}

TEST_F(PrepareTest, FindPrepare_NoPackage) {
  const absl::Status status = FindPrepare({"/"}, "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), "tools/prepare/weft_prepare")) << status;
}

TEST_F(PrepareTest, BinaryFolders_AsNamedAndResolved) {
  const std::vector<std::string> folders = BinaryFolders((root_ / "bin/cli/weft").string());
  ASSERT_EQ(folders.size(), 2u);
  EXPECT_EQ(folders[0], start());
}

TEST_F(PrepareTest, BinaryFolders_ThroughPath) {
  MakePython();
  setenv("PATH", ("/nowhere:" + (root_ / ".venv/bin").string()).c_str(), 1);
  EXPECT_EQ(BinaryFolders("python")[0], (root_ / ".venv/bin").string());
}

TEST_F(PrepareTest, ExecPrepare_InterpreterThatIsNotThere) {
  const absl::Status status = ExecPrepare({"/nowhere/python", "/"}, {"--help"});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), "/nowhere/python")) << status;
}

}  // namespace
}  // namespace weft::cli
