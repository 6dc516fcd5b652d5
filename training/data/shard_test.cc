#include "training/data/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "adapters/safetensors.h"
#include "common/file.h"
#include "training/data/test_data.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

std::string Path(const std::string& name) { return absl::StrCat(::testing::TempDir(), "/", name); }

absl::StatusOr<std::unique_ptr<DataShard>> OpenSplit(const TestSplit& split, int64_t num_labels = 3) {
  const std::string path = Path("split.safetensors");
  EXPECT_TRUE(WriteTestSplit(path, split).ok());
  return DataShard::Open(path, num_labels);
}

TestSplit TwoRows() { return TestSplit().Add({101, 7, 102}, 2).Add({101, 102}, 0); }

void ExpectRefused(const absl::Status& status, absl::StatusCode code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(part));
}

TEST(DataShardTest, Open_ReadsRowsInPlace) {
  const auto shard = OpenSplit(TwoRows());
  ASSERT_TRUE(shard.ok()) << shard.status();
  EXPECT_EQ((*shard)->rows(), 2);
  EXPECT_EQ((*shard)->tokens(), 5);
  EXPECT_THAT((*shard)->row(0), ::testing::ElementsAre(101, 7, 102));
  EXPECT_THAT((*shard)->row(1), ::testing::ElementsAre(101, 102));
  EXPECT_EQ((*shard)->label(0), 2);
  EXPECT_EQ((*shard)->label(1), 0);
}

TEST(DataShardTest, Open_NoRowsIsAnEmptyShard) {
  const auto shard = OpenSplit(TestSplit());
  ASSERT_TRUE(shard.ok()) << shard.status();
  EXPECT_EQ((*shard)->rows(), 0);
}

TEST(DataShardTest, Open_RefusesLabelOutsideTheSet) {
  ExpectRefused(OpenSplit(TwoRows(), 2).status(), absl::StatusCode::kInvalidArgument,
                "row 0 has label 2, expected 0 to 1");
  ExpectRefused(OpenSplit(TestSplit().Add({1}, -1)).status(), absl::StatusCode::kInvalidArgument, "row 0 has label -1");
}

TEST(DataShardTest, Open_RefusesNegativeTokenAndEmptyRow) {
  ExpectRefused(OpenSplit(TwoRows().Add({101, -5}, 0)).status(), absl::StatusCode::kInvalidArgument,
                "row 2 holds the negative token -5");
  ExpectRefused(OpenSplit(TwoRows().Add({}, 0)).status(), absl::StatusCode::kInvalidArgument, "row 2 has no tokens");
}

TEST(DataShardTest, Open_RefusesOffsetsThatDoNotFit) {
  TestSplit split = TwoRows();
  split.row_offsets = {0, 4, 3, 5};
  ExpectRefused(OpenSplit(split).status(), absl::StatusCode::kDataLoss, "descend at row 1: 4 then 3");
  split.row_offsets = {0, 3, 4};
  ExpectRefused(OpenSplit(split).status(), absl::StatusCode::kDataLoss, "from 0 to the 5 tokens");
  split.row_offsets = {1, 3, 5};
  ExpectRefused(OpenSplit(split).status(), absl::StatusCode::kDataLoss, "found 1 to 5");
  split.row_offsets = {};
  ExpectRefused(OpenSplit(split).status(), absl::StatusCode::kDataLoss, "found none");
  split.row_offsets = {0, 3, 4, 5};
  ExpectRefused(OpenSplit(split).status(), absl::StatusCode::kDataLoss, "2 labels but 3 rows");
}

TEST(DataShardTest, Open_RefusesMissingTensorAndWrongDtype) {
  const std::string path = Path("bad.safetensors");
  const TestSplit split = TwoRows();
  const SafetensorToWrite offsets = TestTensor("row_offsets", "I64", {3}, split.row_offsets);
  const SafetensorToWrite labels = TestTensor("labels", "I32", {2}, split.labels);
  ASSERT_TRUE(WriteSafetensors(path, {offsets, labels}).ok());
  EXPECT_THAT(std::string(DataShard::Open(path, 3).status().message()), HasSubstr("input_ids"));
  ASSERT_TRUE(WriteSafetensors(path, {TestTensor("input_ids", "F32", {5}, split.input_ids), offsets, labels}).ok());
  ExpectRefused(DataShard::Open(path, 3).status(), absl::StatusCode::kDataLoss, "input_ids has dtype F32");
  ASSERT_TRUE(WriteSafetensors(path, {TestTensor("input_ids", "I32", {5, 1}, split.input_ids), offsets, labels}).ok());
  ExpectRefused(DataShard::Open(path, 3).status(), absl::StatusCode::kDataLoss, "2 dimensions");
}

TEST(DataShardTest, Open_RefusesUnalignedTensor) {
  const std::string path = Path("unaligned.safetensors");
  // By hand, since our own writer aligns: five 4-byte tokens before the 8-byte offsets.
  std::string header = R"({"input_ids":{"dtype":"I32","shape":[5],"data_offsets":[0,20]},)"
                       R"("row_offsets":{"dtype":"I64","shape":[3],"data_offsets":[20,44]},)"
                       R"("labels":{"dtype":"I32","shape":[2],"data_offsets":[44,52]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const auto length = static_cast<char>(header.size());
  ASSERT_LT(header.size(), 256u);
  ASSERT_TRUE(WriteFileAtomically(
                  path, absl::StrCat(std::string(1, length), std::string(7, '\0'), header, std::string(52, '\0')))
                  .ok());
  ExpectRefused(DataShard::Open(path, 3).status(), absl::StatusCode::kDataLoss,
                "row_offsets does not start at a multiple of 8");
}

TestFeatures TwoPoints() { return TestFeatures().Add({0.5f, -1, 2}, 1).Add({3, 4, 5}, 0); }

TEST(DataShardTest, Open_ReadsFeaturesInPlace) {
  const std::string path = Path("features.safetensors");
  ASSERT_TRUE(WriteTestFeatures(path, TwoPoints()).ok());
  const auto shard = DataShard::Open(path, 2);
  ASSERT_TRUE(shard.ok()) << shard.status();
  EXPECT_EQ((*shard)->rows(), 2);
  EXPECT_EQ((*shard)->width(), 3);
  EXPECT_EQ((*shard)->tokens(), 0);
  EXPECT_THAT((*shard)->features(1), ::testing::ElementsAre(3, 4, 5));
  EXPECT_TRUE((*shard)->row(1).empty());
  EXPECT_EQ((*shard)->label(0), 1);
  EXPECT_EQ((*OpenSplit(TwoRows()))->width(), 0);
  EXPECT_TRUE((*OpenSplit(TwoRows()))->features(1).empty());
}

TEST(DataShardTest, Open_RefusesFeaturesThatAreNoRows) {
  const std::string path = Path("bad_features.safetensors");
  const std::vector<float> values = {1, 2, 3, 4};
  const std::vector<int32_t> two = {0, 1}, three = {0, 1, 0};
  const auto refusal = [&](const std::vector<SafetensorToWrite>& tensors) {
    EXPECT_TRUE(WriteSafetensors(path, tensors).ok());
    return DataShard::Open(path, 2).status();
  };
  const SafetensorToWrite labels = TestTensor("labels", "I32", {2}, two);
  ExpectRefused(refusal({TestTensor("features", "F32", {4}, values), labels}), absl::StatusCode::kDataLoss,
                "features has dtype F32 and 1 dimensions, expected F32 and 2");
  ExpectRefused(refusal({TestTensor("features", "I32", {2, 2}, values), labels}), absl::StatusCode::kDataLoss,
                "features has dtype I32");
  ExpectRefused(refusal({TestTensor("features", "F32", {2, 2}, values), TestTensor("labels", "I32", {3}, three)}),
                absl::StatusCode::kDataLoss, "3 labels but 2 rows of features");
  ExpectRefused(refusal({TestTensor("features", "F32", {2, 0}, std::vector<float>()), labels}),
                absl::StatusCode::kDataLoss, "rows of no features");
  ExpectRefused(
      refusal({TestTensor("features", "F32", {2, 2}, values), TestTensor("input_ids", "I32", {2}, two), labels}),
      absl::StatusCode::kDataLoss, "both input_ids and features");
  TestFeatures infinite = TwoPoints();
  infinite.features[4] = std::numeric_limits<float>::infinity();
  ASSERT_TRUE(WriteTestFeatures(path, infinite).ok());
  ExpectRefused(DataShard::Open(path, 2).status(), absl::StatusCode::kInvalidArgument, "row 1, feature 1 is inf");
  ASSERT_TRUE(WriteTestFeatures(path, TwoPoints()).ok());
  ExpectRefused(DataShard::Open(path, 1).status(), absl::StatusCode::kInvalidArgument, "row 0 has label 1");
}

class DataFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(MakeDirectories(folder_).ok());
    ASSERT_TRUE(WriteTestSplit(folder_ + "/train.safetensors", TwoRows()).ok());
  }

  absl::StatusOr<DataFolder> OpenWith(const std::string& manifest) {
    EXPECT_TRUE(WriteFileAtomically(folder_ + "/manifest.json", std::string_view(manifest)).ok());
    return DataFolder::Open(folder_);
  }

  static std::string Manifest(const std::string& splits, const std::string& labels = R"(["a", "b", "c"])") {
    return absl::StrCat(R"({"format": "weft-data", "version": 1, "task": "sequence_classification", "labels": )",
                        labels, R"(, "tokenizer_sha256": "", "max_length": 8, "splits": {)", splits, "}}");
  }

  const std::string folder_ = Path(::testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(DataFolderTest, Open_ReadsManifestAndSplits) {
  const auto folder =
      OpenWith(Manifest(R"("train": {"file": "train.safetensors", "rows": 2, "tokens": 5, "sha256": ""})"));
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->task(), "sequence_classification");
  EXPECT_THAT(folder->labels(), ::testing::ElementsAre("a", "b", "c"));
  ASSERT_NE(folder->split("train"), nullptr);
  EXPECT_EQ(folder->rows("train"), 2);
  EXPECT_EQ(folder->split("test"), nullptr);
  EXPECT_EQ(folder->rows("test"), 0);
}

TEST_F(DataFolderTest, Open_SplitsAreOfOneKind) {
  ASSERT_TRUE(WriteTestFeatures(folder_ + "/a.safetensors", TwoPoints()).ok());
  ASSERT_TRUE(WriteTestFeatures(folder_ + "/b.safetensors", TestFeatures().Add({1, 2}, 0)).ok());
  const std::string a = R"("a": {"file": "a.safetensors", "rows": 2})";
  const auto folder = OpenWith(Manifest(a));
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->split("a")->width(), 3);
  ExpectRefused(OpenWith(Manifest(a + R"(, "b": {"file": "b.safetensors", "rows": 1})")).status(),
                absl::StatusCode::kInvalidArgument,
                "split \"a\" has rows of 3 features, split \"b\" has rows of 2 features");
  ExpectRefused(OpenWith(Manifest(a + R"(, "train": {"file": "train.safetensors", "rows": 2})")).status(),
                absl::StatusCode::kInvalidArgument, "split \"train\" has rows of tokens");
}

TEST_F(DataFolderTest, Open_RefusesMissingManifestAndMissingFile) {
  ExpectRefused(DataFolder::Open(folder_).status(), absl::StatusCode::kNotFound, "weft prepare");
  ExpectRefused(OpenWith(Manifest(R"("train": {"file": "gone.safetensors", "rows": 2})")).status(),
                absl::StatusCode::kNotFound, "gone.safetensors: missing");
}

TEST_F(DataFolderTest, Open_RefusesMalformedManifest) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  ExpectRefused(OpenWith("{").status(), kInvalid, "not a JSON object");
  ExpectRefused(OpenWith(R"({"format": "other", "version": 1})").status(), kInvalid, "weft-data");
  ExpectRefused(OpenWith(R"({"format": "weft-data", "version": 2})").status(), kInvalid, "\"version\": 1");
  ExpectRefused(OpenWith(R"({"format": "weft-data", "version": 1})").status(), kInvalid, "\"task\" must be a name");
  ExpectRefused(OpenWith(Manifest("", "[]")).status(), kInvalid, "names no label");
  ExpectRefused(OpenWith(Manifest("", "[1]")).status(), kInvalid, "\"labels\" must be a list of names");
  ExpectRefused(OpenWith(Manifest(R"("train": 3)")).status(), kInvalid, "split \"train\" must be an object");
  ExpectRefused(OpenWith(Manifest(R"("train": {"file": "train.safetensors", "rows": -2})")).status(), kInvalid,
                "\"rows\" must be a count");
  ExpectRefused(OpenWith(Manifest(R"("train": {"file": "../train.safetensors", "rows": 2})")).status(), kInvalid,
                "inside the folder");
}

TEST_F(DataFolderTest, Open_RefusesRowCountsThatDisagreeAndEmptySplit) {
  ExpectRefused(OpenWith(Manifest(R"("train": {"file": "train.safetensors", "rows": 3})")).status(),
                absl::StatusCode::kInvalidArgument, "has 3 rows here but 2 in train.safetensors");
  ASSERT_TRUE(WriteTestSplit(folder_ + "/train.safetensors", TestSplit()).ok());
  ExpectRefused(OpenWith(Manifest(R"("train": {"file": "train.safetensors", "rows": 0})")).status(),
                absl::StatusCode::kInvalidArgument, "empty shard");
}

}  // namespace
}  // namespace weft
