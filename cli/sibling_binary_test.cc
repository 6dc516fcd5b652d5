#include "cli/generate.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "common/file.h"

namespace weft::cli {
namespace {

namespace fs = std::filesystem;

class GenerateTest : public testing::Test {
 protected:
  GenerateTest() : root_(fs::path(testing::TempDir()) / "bin") {
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

TEST_F(GenerateTest, FindGenerateBinary_WhereBazelPutsIt) {
  const std::string binary = MakeBinary("training/generate/weft-generate");
  EXPECT_EQ(FindGenerateBinary({"/nowhere", (root_ / "cli").string()}).value(), binary);
}

TEST_F(GenerateTest, FindGenerateBinary_InABundle) {
  MakeBinary("training/generate/weft-generate");
  const std::string binary = MakeBinary("cli/weft-generate");
  EXPECT_EQ(FindGenerateBinary({(root_ / "cli").string()}).value(), binary);
}

TEST_F(GenerateTest, FindGenerateBinary_None) {
  MakeBinary("cli/weft-generate", 0644);  // cannot be run
  const absl::Status status = FindGenerateBinary({(root_ / "cli").string()}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), "//training/generate:weft-generate")) << status;
}

}  // namespace
}  // namespace weft::cli
