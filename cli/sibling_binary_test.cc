#include "cli/sibling_binary.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "common/file.h"

namespace weft::cli {
namespace {

namespace fs = std::filesystem;

const SiblingBinary kGenerate = {"weft-generate", "training/generate"};

class SiblingBinaryTest : public testing::Test {
 protected:
  SiblingBinaryTest() : root_(fs::path(testing::TempDir()) / "bin") {
    fs::remove_all(root_);
    fs::create_directories(root_ / "cli");
    fs::create_directories(root_ / "training/generate");
  }
  std::string MakeBinary(const std::string& place, int mode = 0755) {
    const std::string path = (root_ / place).string();
    EXPECT_TRUE(WriteFileAtomically(path, "#!/bin/sh\n").ok());
    chmod(path.c_str(), mode);
    return path;
  }

  const fs::path root_;
};

TEST_F(SiblingBinaryTest, Find_WhereBazelPutsIt) {
  const std::string binary = MakeBinary("training/generate/weft-generate");
  EXPECT_EQ(FindSiblingBinary(kGenerate, {"/nowhere", (root_ / "cli").string()}).value(), binary);
}

TEST_F(SiblingBinaryTest, Find_InABundle) {
  MakeBinary("training/generate/weft-generate");
  const std::string binary = MakeBinary("cli/weft-generate");
  EXPECT_EQ(FindSiblingBinary(kGenerate, {(root_ / "cli").string()}).value(), binary);
}

TEST_F(SiblingBinaryTest, Find_None) {
  MakeBinary("cli/weft-generate", 0644);  // cannot be run
  const absl::Status status = FindSiblingBinary(kGenerate, {(root_ / "cli").string()}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), "//training/generate:weft-generate")) << status;
}

TEST_F(SiblingBinaryTest, ExecBinary_HandsTheArgumentsOn) {
  const std::string path = MakeBinary("cli/weft-sim");
  ASSERT_TRUE(WriteFileAtomically(path, "#!/bin/sh\ntest \"$1|$2|$#\" = \"a b||2\" && exit 23\n").ok());
  chmod(path.c_str(), 0755);
  EXPECT_EXIT(ExecBinary(path, {"a b", ""}).IgnoreError(), testing::ExitedWithCode(23), "");
}

TEST_F(SiblingBinaryTest, ExecBinary_Missing) {
  EXPECT_EQ(ExecBinary("/nowhere/weft-sim", {}).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace weft::cli
