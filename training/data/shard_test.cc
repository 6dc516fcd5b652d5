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
  EXPECT_EQ((*shard)->kind(), RowKind::kText);
  EXPECT_EQ((*shard)->tokens(), 5);
  EXPECT_EQ((*shard)->longest_row(), 3);
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

TEST(DataShardTest, CheckRow_RefusesNegativeToken) {
  const auto shard = OpenSplit(TwoRows().Add({101, -5}, 0));
  ASSERT_TRUE(shard.ok()) << shard.status();
  EXPECT_TRUE((*shard)->CheckRow(1).ok());
  ExpectRefused((*shard)->CheckRow(2), absl::StatusCode::kInvalidArgument, "row 2 holds the negative token -5");
}

TEST(DataShardTest, Open_RefusesEmptyRow) {
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
  ExpectRefused(refusal({TestTensor("values", "F32", {4}, values), labels}), absl::StatusCode::kDataLoss,
                "none of the tensors input_ids, features and pixels");
  TestFeatures infinite = TwoPoints();
  infinite.features[4] = std::numeric_limits<float>::infinity();
  ASSERT_TRUE(WriteTestFeatures(path, infinite).ok());
  ExpectRefused(DataShard::Open(path, 2).status(), absl::StatusCode::kInvalidArgument, "row 1, feature 1 is inf");
  ASSERT_TRUE(WriteTestFeatures(path, TwoPoints()).ok());
  ExpectRefused(DataShard::Open(path, 1).status(), absl::StatusCode::kInvalidArgument, "row 0 has label 1");
}

TestLearn TwoToLearn() { return TestLearn().Add({5, 6, 7}, {0, 1, 1}).Add({8, 9}, {0, 1}); }

TEST(DataShardTest, Open_ReadsTextsToLearn) {
  const std::string path = Path("learn.safetensors");
  ASSERT_TRUE(WriteTestLearn(path, TwoToLearn()).ok());
  const auto shard = DataShard::Open(path, 0);
  ASSERT_TRUE(shard.ok()) << shard.status();
  EXPECT_EQ((*shard)->kind(), RowKind::kLearn);
  EXPECT_EQ((*shard)->rows(), 2);
  EXPECT_EQ((*shard)->tokens(), 5);
  EXPECT_EQ((*shard)->longest_row(), 3);
  EXPECT_THAT((*shard)->row(1), ::testing::ElementsAre(8, 9));
  EXPECT_THAT((*shard)->learn(0), ::testing::ElementsAre(0, 1, 1));
  EXPECT_THAT((*shard)->learn(1), ::testing::ElementsAre(0, 1));
  EXPECT_TRUE((*shard)->CheckRow(1).ok());
}

TEST(DataShardTest, Open_RefusesLearnThatDoesNotFitTheTokens) {
  const std::string path = Path("bad_learn.safetensors");
  const TestLearn split = TwoToLearn();
  const std::vector<int32_t> labels = {0, 1};
  const auto offsets = TestTensor("row_offsets", "I64", {3}, split.row_offsets);
  const auto tokens = TestTensor("input_ids", "I32", {5}, split.input_ids);
  const auto refusal = [&](const std::vector<SafetensorToWrite>& tensors) {
    EXPECT_TRUE(WriteSafetensors(path, tensors).ok());
    return DataShard::Open(path, 0).status();
  };
  ExpectRefused(refusal({offsets, tokens, TestTensor("learn", "U8", {4}, std::vector<uint8_t>{0, 1, 1, 0})}),
                absl::StatusCode::kDataLoss, "learn has 4 values, expected one for each of 5 tokens");
  ExpectRefused(refusal({offsets, tokens, TestTensor("learn", "I32", {5}, split.input_ids)}),
                absl::StatusCode::kDataLoss, "learn has dtype I32");
  const auto learn = TestTensor("learn", "U8", {5}, split.learn);
  ExpectRefused(refusal({offsets, tokens, learn, TestTensor("labels", "I32", {2}, labels)}),
                absl::StatusCode::kDataLoss, "learn beside labels");
  ExpectRefused(refusal({TestTensor("features", "F32", {1, 1}, std::vector<float>{1}), learn}),
                absl::StatusCode::kDataLoss, "learn beside features");
  ExpectRefused(refusal({offsets, learn, TestTensor("input_ids", "F32", {5}, split.input_ids)}),
                absl::StatusCode::kDataLoss, "input_ids has dtype F32");
  ExpectRefused(refusal({tokens, learn}), absl::StatusCode::kNotFound, "row_offsets");
}

TEST(DataShardTest, CheckRow_RefusesLearnOfOtherValuesOrNothingToLearn) {
  const std::string path = Path("values_of_learn.safetensors");
  ASSERT_TRUE(WriteTestLearn(path, TwoToLearn().Add({1, 2}, {0, 2}).Add({1, 2}, {0, 0}).Add({1, -2}, {0, 1})).ok());
  const auto shard = DataShard::Open(path, 0);
  ASSERT_TRUE(shard.ok()) << shard.status();
  EXPECT_TRUE((*shard)->CheckRow(0).ok());
  ExpectRefused((*shard)->CheckRow(2), absl::StatusCode::kInvalidArgument, "row 2 has 2 in learn, expected 0 or 1");
  ExpectRefused((*shard)->CheckRow(3), absl::StatusCode::kInvalidArgument, "row 3 has no token to learn");
  ExpectRefused((*shard)->CheckRow(4), absl::StatusCode::kInvalidArgument, "row 4 holds the negative token -2");
}

TestPairs TwoPairs() { return TestPairs().Add({5, 6, 7}, {8}).Add({9, 10}, {11, 12, 13, 14}); }

TEST(DataShardTest, Open_ReadsPairs) {
  const std::string path = Path("pairs.safetensors");
  ASSERT_TRUE(WriteTestPairs(path, TwoPairs()).ok());
  const auto shard = DataShard::Open(path, 0);
  ASSERT_TRUE(shard.ok()) << shard.status();
  EXPECT_EQ((*shard)->kind(), RowKind::kPairs);
  EXPECT_EQ((*shard)->rows(), 2);
  EXPECT_EQ((*shard)->tokens(), 10);
  EXPECT_EQ((*shard)->longest_row(), 4);
  EXPECT_THAT((*shard)->row(0), ::testing::ElementsAre(5, 6, 7));
  EXPECT_THAT((*shard)->partner(0), ::testing::ElementsAre(8));
  EXPECT_THAT((*shard)->row(1), ::testing::ElementsAre(9, 10));
  EXPECT_THAT((*shard)->partner(1), ::testing::ElementsAre(11, 12, 13, 14));
}

TEST(DataShardTest, Open_RefusesPairsOfOneTextOrAnEmptyOne) {
  const std::string path = Path("bad_pairs.safetensors");
  TestPairs odd = TwoPairs();
  odd.input_ids.push_back(1);
  odd.row_offsets.push_back(11);
  ASSERT_TRUE(WriteTestPairs(path, odd).ok());
  ExpectRefused(DataShard::Open(path, 0).status(), absl::StatusCode::kDataLoss, "5 texts in row_offsets, expected two");
  ASSERT_TRUE(WriteTestPairs(path, TwoPairs().Add({1}, {})).ok());
  ExpectRefused(DataShard::Open(path, 0).status(), absl::StatusCode::kInvalidArgument,
                "row 2 has no tokens in one of its texts");
  ASSERT_TRUE(WriteTestPairs(path, TwoPairs().Add({1}, {-1})).ok());
  const auto shard = DataShard::Open(path, 0);
  ASSERT_TRUE(shard.ok()) << shard.status();
  EXPECT_TRUE((*shard)->CheckRow(1).ok());
  ExpectRefused((*shard)->CheckRow(2), absl::StatusCode::kInvalidArgument, "row 2 holds the negative token -1");
}

TEST(DataShardTest, Open_RefusesLabelsMissingOrOutOfPlace) {
  const std::string path = Path("labels_of_kind.safetensors");
  ASSERT_TRUE(WriteTestPairs(path, TwoPairs()).ok());
  ExpectRefused(DataShard::Open(path, 3).status(), absl::StatusCode::kDataLoss,
                "has no tensor labels, expected one of 3 labels");
  ASSERT_TRUE(WriteTestLearn(path, TwoToLearn()).ok());
  ExpectRefused(DataShard::Open(path, 3).status(), absl::StatusCode::kDataLoss, "has no tensor labels");
  ExpectRefused(OpenSplit(TwoRows(), 0).status(), absl::StatusCode::kDataLoss, "has labels, expected no label");
  const std::vector<float> values = {1, 2};
  ASSERT_TRUE(WriteSafetensors(path, {TestTensor("features", "F32", {1, 2}, values)}).ok());
  ExpectRefused(DataShard::Open(path, 3).status(), absl::StatusCode::kNotFound, "labels");
}

TestImages TwoImages() { return TestImages().Add({0, 1, 2, 3}, 1).Add({252, 253, 254, 255}, 0); }

TEST(DataShardTest, Open_ReadsImagesInPlace) {
  const std::string path = Path("images.safetensors");
  TestImages split{.size = {3, 1, 2}, .pixels = {}, .labels = {}};
  split.metadata = {{"image_mean", "0.1,0.2,0.3"}, {"image_std", "1,0.5, 0.25"}};
  ASSERT_TRUE(WriteTestImages(path, split.Add({0, 1, 2, 3, 4, 5}, 1).Add({6, 7, 8, 9, 10, 255}, 0)).ok());
  const auto shard = DataShard::Open(path, 2);
  ASSERT_TRUE(shard.ok()) << shard.status();
  EXPECT_EQ((*shard)->kind(), RowKind::kImages);
  EXPECT_EQ((*shard)->rows(), 2);
  EXPECT_EQ((*shard)->channels(), 3);
  EXPECT_EQ((*shard)->height(), 1);
  EXPECT_EQ((*shard)->width_pixels(), 2);
  EXPECT_THAT((*shard)->pixels(1), ::testing::ElementsAre(6, 7, 8, 9, 10, 255));
  EXPECT_THAT((*shard)->image_mean(), ::testing::ElementsAre(0.1f, 0.2f, 0.3f));
  EXPECT_THAT((*shard)->image_std(), ::testing::ElementsAre(1, 0.5f, 0.25f));
  EXPECT_EQ((*shard)->label(0), 1);
  EXPECT_EQ((*shard)->tokens(), 0);
  EXPECT_EQ((*shard)->longest_row(), 0);
  EXPECT_EQ((*shard)->width(), 0);
  EXPECT_TRUE((*shard)->row(0).empty());
  EXPECT_TRUE((*shard)->CheckRow(0).ok());
}

TEST(DataShardTest, Open_RefusesImagesOfOtherShapes) {
  const std::string path = Path("bad_images.safetensors");
  const TestImages split = TwoImages();
  const auto labels = TestTensor("labels", "I32", {2}, split.labels);
  const auto refusal = [&](const SafetensorToWrite& pixels) {
    EXPECT_TRUE(WriteSafetensors(path, {labels, pixels}, split.metadata).ok());
    return DataShard::Open(path, 2).status();
  };
  ExpectRefused(refusal(TestTensor("pixels", "U8", {2, 2, 2}, split.pixels)), absl::StatusCode::kDataLoss,
                "pixels has dtype U8 and 3 dimensions, expected U8 and 4");
  ExpectRefused(refusal(TestTensor("pixels", "I8", {2, 1, 2, 2}, split.pixels)), absl::StatusCode::kDataLoss,
                "pixels has dtype I8");
  ExpectRefused(refusal(TestTensor("pixels", "U8", {4, 1, 1, 2}, split.pixels)), absl::StatusCode::kDataLoss,
                "2 labels but 4 rows of pixels");
  ExpectRefused(refusal(TestTensor("pixels", "U8", {2, 1, 0, 2}, std::vector<uint8_t>())), absl::StatusCode::kDataLoss,
                "images of 1 x 0 x 2, expected at least 1 x 1 x 1");
  ASSERT_TRUE(WriteTestImages(path, split).ok());
  ExpectRefused(DataShard::Open(path, 1).status(), absl::StatusCode::kInvalidArgument, "row 0 has label 1");
}

TEST(DataShardTest, Open_RefusesImagesWithoutMeanAndStd) {
  const std::string path = Path("bad_metadata.safetensors");
  TestImages split = TwoImages();
  const auto refused = [&](const std::map<std::string, std::string>& metadata, const std::string& part) {
    split.metadata = metadata;
    ASSERT_TRUE(WriteTestImages(path, split).ok());
    ExpectRefused(DataShard::Open(path, 2).status(), absl::StatusCode::kDataLoss, part);
  };
  refused({{"image_std", "0.5"}}, "metadata image_mean is missing, expected 1 numbers");
  refused({{"image_mean", "0.5"}}, "metadata image_std is missing");
  refused({{"image_mean", "0.5,0.5"}, {"image_std", "0.5"}}, "metadata image_mean is \"0.5,0.5\"");
  refused({{"image_mean", "half"}, {"image_std", "0.5"}}, "metadata image_mean is \"half\"");
  refused({{"image_mean", "nan"}, {"image_std", "0.5"}}, "metadata image_mean is \"nan\"");
  refused({{"image_mean", "0.5"}, {"image_std", "0"}}, "metadata image_std holds 0, expected more than 0");
}

TEST(DataShardTest, Select_IsAShardOfTheRowsNamed) {
  const auto shard = OpenSplit(TwoRows().Add({101, 8, 9, 102}, 1));
  ASSERT_TRUE(shard.ok()) << shard.status();
  const auto some = (*shard)->Select({2, 1, 2});
  ASSERT_TRUE(some.ok()) << some.status();
  EXPECT_EQ((*some)->rows(), 3);
  EXPECT_EQ((*some)->tokens(), 10);
  EXPECT_EQ((*some)->longest_row(), 4);
  EXPECT_THAT((*some)->row(0), ::testing::ElementsAre(101, 8, 9, 102));
  EXPECT_EQ((*some)->row(0).data(), (*shard)->row(2).data()) << "nothing is copied";
  EXPECT_EQ((*some)->label(1), 0);
  const auto fewer = (*some)->Select({1});
  EXPECT_THAT((*fewer)->row(0), ::testing::ElementsAre(101, 102)) << "of a selection";
  EXPECT_EQ((*fewer)->longest_row(), 2);
}

TEST(DataShardTest, Select_OutlivesTheShard) {
  auto shard = OpenSplit(TwoRows());
  const auto some = (*shard)->Select({1});
  shard->reset();
  EXPECT_THAT((*some)->row(0), ::testing::ElementsAre(101, 102));
}

TEST(DataShardTest, Select_OfEachKind) {
  const std::string path = Path("kinds.safetensors");
  ASSERT_TRUE(WriteTestFeatures(path, TwoPoints()).ok());
  auto shard = DataShard::Open(path, 2);
  EXPECT_EQ((*(*shard)->Select({1}))->features(0).data(), (*shard)->features(1).data());
  ASSERT_TRUE(WriteTestLearn(path, TwoToLearn()).ok());
  shard = DataShard::Open(path, 0);
  EXPECT_EQ((*(*shard)->Select({1}))->learn(0).data(), (*shard)->learn(1).data());
  ASSERT_TRUE(WriteTestPairs(path, TwoPairs()).ok());
  shard = DataShard::Open(path, 0);
  auto some = (*shard)->Select({1});
  EXPECT_EQ((*some)->partner(0).data(), (*shard)->partner(1).data());
  EXPECT_EQ((*some)->tokens(), static_cast<int64_t>((*shard)->row(1).size() + (*shard)->partner(1).size()));
  ASSERT_TRUE(WriteTestImages(path, TwoImages()).ok());
  shard = DataShard::Open(path, 2);
  EXPECT_EQ((*(*shard)->Select({1}))->pixels(0).data(), (*shard)->pixels(1).data());
}

TEST(DataShardTest, Select_RefusesARowThatThereIsNot) {
  const auto shard = OpenSplit(TwoRows());
  ExpectRefused((*shard)->Select({0, 2}).status(), absl::StatusCode::kInvalidArgument, "row 2 is asked for");
  ExpectRefused((*(*shard)->Select({0}))->Select({1}).status(), absl::StatusCode::kInvalidArgument, "there are 1");
}

TEST(DataShardTest, SetLabelsAndPixels_TakeTheFilesPlace) {
  const std::string path = Path("own.safetensors");
  ASSERT_TRUE(WriteTestImages(path, TwoImages()).ok());
  const auto shard = DataShard::Open(path, 2);
  auto some = (*shard)->Select({1, 0});
  (*some)->SetLabels({0, 1});
  (*some)->SetPixels({1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_EQ((*some)->label(1), 1);
  EXPECT_THAT((*some)->pixels(1), ::testing::ElementsAre(5, 6, 7, 8));
  const auto last = (*some)->Select({1});
  EXPECT_EQ((*last)->label(0), 1);
  EXPECT_THAT((*last)->pixels(0), ::testing::ElementsAre(5, 6, 7, 8));
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

  static std::string Manifest(const std::string& splits, const std::string& labels = R"(["a", "b", "c"])",
                              const std::string& task = "sequence_classification") {
    return absl::StrCat(R"({"format": "weft-data", "version": 1, "task": ")", task, R"(", "labels": )", labels,
                        R"(, "tokenizer_sha256": "", "max_length": 8, "splits": {)", splits, "}}");
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

TEST_F(DataFolderTest, Open_ReadsGroups) {
  const TestSplit rows = TwoRows();
  const auto write = [&](const std::vector<int32_t>& group) {
    const auto size = static_cast<int64_t>(group.size());
    ASSERT_TRUE(
        WriteSafetensors(
            folder_ + "/train.safetensors",
            {TestTensor("row_offsets", "I64", {3}, rows.row_offsets), TestTensor("group.client", "I32", {size}, group),
             TestTensor("input_ids", "I32", {5}, rows.input_ids), TestTensor("labels", "I32", {2}, rows.labels)})
            .ok());
  };
  std::string manifest = Manifest(R"("train": {"file": "train.safetensors", "rows": 2})");
  manifest.insert(1, R"("groups": {"client": ["ann", "bob"]}, )");
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  ExpectRefused(OpenWith(manifest).status(), kInvalid, "split \"train\" has no tensor group.client");
  write({1, 0});
  const auto folder = OpenWith(manifest);
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_THAT(folder->groups().at("client"), ::testing::ElementsAre("ann", "bob"));
  EXPECT_THAT(folder->split("train")->group("client"), ::testing::ElementsAre(1, 0));
  EXPECT_TRUE(folder->split("train")->group("town").empty());
  write({1, 2});
  ExpectRefused(OpenWith(manifest).status(), kInvalid,
                "row 1 of split \"train\" has 2 in group.client, expected 0 to 1");
  write({-1, 0});
  ExpectRefused(OpenWith(manifest).status(), kInvalid, "row 0 of split \"train\" has -1");
  write({0});
  ExpectRefused(OpenWith(manifest).status(), absl::StatusCode::kDataLoss, "group.client has 1 values");
  manifest = Manifest(R"("train": {"file": "train.safetensors", "rows": 2})");
  manifest.insert(1, R"("groups": {"client": "ann"}, )");
  ExpectRefused(OpenWith(manifest).status(), absl::StatusCode::kDataLoss, "group.client");
  write({0, 0});
  ExpectRefused(OpenWith(manifest).status(), kInvalid, "\"groups of client\" must be a list of names");
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

TEST_F(DataFolderTest, Open_ReadsEachTask) {
  const std::string split = R"("train": {"file": "train.safetensors", "rows": 2})",
                    path = folder_ + "/train.safetensors";
  EXPECT_TRUE(OpenWith(Manifest(split)).ok());
  ASSERT_TRUE(WriteTestLearn(path, TwoToLearn()).ok());
  EXPECT_EQ(OpenWith(Manifest(split, "[]", "causal_lm"))->split("train")->kind(), RowKind::kLearn);
  ASSERT_TRUE(WriteTestPairs(path, TwoPairs()).ok());
  const auto pairs = OpenWith(
      absl::StrCat(R"({"format": "weft-data", "version": 1, "task": "sentence_embedding", "splits": {)", split, "}}"));
  ASSERT_TRUE(pairs.ok()) << pairs.status();
  EXPECT_EQ(pairs->split("train")->kind(), RowKind::kPairs);
  EXPECT_TRUE(pairs->labels().empty());
  ASSERT_TRUE(WriteTestImages(path, TwoImages()).ok());
  const std::string images = Manifest(split, R"(["a", "b"])", "image_classification");
  EXPECT_EQ(OpenWith(images)->split("train")->kind(), RowKind::kImages);
  ASSERT_TRUE(WriteTestFeatures(path, TwoPoints()).ok());
  EXPECT_EQ(OpenWith(images)->split("train")->kind(), RowKind::kFeatures);
}

TEST_F(DataFolderTest, Open_RefusesTaskAndLabelsThatDoNotFit) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const std::string split = R"("train": {"file": "train.safetensors", "rows": 2})",
                    path = folder_ + "/train.safetensors";
  ExpectRefused(OpenWith(Manifest(split, "[]", "regression")).status(), kInvalid, "task \"regression\" is none of");
  ExpectRefused(OpenWith(Manifest(split, R"(["a"])", "causal_lm")).status(), kInvalid,
                "\"labels\" names 1 labels, task causal_lm has none");
  ExpectRefused(OpenWith(Manifest(split, "[]", "image_classification")).status(), kInvalid, "names no label");
  ExpectRefused(OpenWith(Manifest(split, R"(["a", "b", "c"])", "image_classification")).status(), kInvalid,
                "split \"train\" has rows of tokens, which task image_classification does not read");
  ASSERT_TRUE(WriteTestPairs(path, TwoPairs()).ok());
  ExpectRefused(OpenWith(Manifest(split, "[]", "causal_lm")).status(), kInvalid, "has pairs of rows of tokens");
  ASSERT_TRUE(WriteTestLearn(path, TwoToLearn()).ok());
  ExpectRefused(OpenWith(Manifest(split, "[]", "sentence_embedding")).status(), kInvalid,
                "has rows of tokens to learn");
}

TEST_F(DataFolderTest, Open_ImagesAreOfOneSize) {
  ASSERT_TRUE(WriteTestImages(folder_ + "/a.safetensors", TwoImages()).ok());
  TestImages wide = TwoImages();
  wide.size = {1, 1, 4};
  ASSERT_TRUE(WriteTestImages(folder_ + "/b.safetensors", wide).ok());
  ExpectRefused(
      OpenWith(Manifest(R"("a": {"file": "a.safetensors", "rows": 2}, "b": {"file": "b.safetensors", "rows": 2})",
                        R"(["a", "b"])", "image_classification"))
          .status(),
      absl::StatusCode::kInvalidArgument, "split \"a\" has images of 1 x 2 x 2, split \"b\" has images of 1 x 1 x 4");
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
