#include "simulation/population/population.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "proto/schema.h"
#include "training/data/test_data.h"

namespace weft::simulation {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A folder with 60 train rows and 30 test rows of features, whose value is their number; label = number mod 3, client
// (a group) = number mod 4 but never 3 in the test rows.
class PopulationTest : public testing::Test {
 protected:
  PopulationTest() : folder_(testing::TempDir() + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    EXPECT_TRUE(MakeDirectories(folder_).ok());
    proto::ApplyDefaults(&config_);
    config_.set_data(folder_);
    Write("train", 60, 4);
    Write("test", 30, 3);
    WriteManifest(folder_, R"("groups": {"client": ["d", "b", "a", "c"]}, )");
  }
  void Write(const std::string& split, int64_t rows, int64_t groups) const {
    std::vector<float> features;
    std::vector<int32_t> labels, group;
    for (int64_t i = 0; i < rows; ++i) {
      features.push_back(static_cast<float>(i));
      labels.push_back(static_cast<int32_t>(i % 3));
      group.push_back(static_cast<int32_t>(i % groups));
    }
    EXPECT_TRUE(WriteSafetensors(
                    absl::StrCat(folder_, "/", split, ".safetensors"),
                    {TestTensor("features", "F32", {rows, 1}, features),
                     TestTensor("group.client", "I32", {rows}, group), TestTensor("labels", "I32", {rows}, labels)})
                    .ok());
  }
  static void WriteManifest(const std::string& folder, const std::string& groups,
                            const std::string& task = "sequence_classification",
                            const std::string& labels = R"(["x", "y", "z"])", int64_t train = 60, int64_t test = 30) {
    EXPECT_TRUE(WriteFileAtomically(
                    folder + "/manifest.json",
                    std::string_view(absl::StrCat(
                        R"({"format": "weft-data", "version": 1, )", groups, R"("task": ")", task, R"(", "labels": )",
                        labels, R"(, "splits": {"train": {"file": "train.safetensors", "rows": )", train,
                        R"(}, "test": {"file": "test.safetensors", "rows": )", test, "}}}")))
                    .ok());
  }
  absl::StatusOr<std::unique_ptr<Population>> Create() {
    Population::Options options{.config = config_, .seed = 1, .data = {}};
    auto data = DataFolder::Open(folder_);
    EXPECT_TRUE(data.ok()) << data.status();
    options.data.emplace("data", *std::move(data));
    return Population::Create(std::move(options));
  }
  std::string Refusal() {
    const absl::Status status = Create().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }
  static std::vector<int> Numbers(const DataShard& shard) {
    std::vector<int> numbers;
    for (int64_t i = 0; i < shard.rows(); ++i) numbers.push_back(static_cast<int>(shard.features(i)[0]));
    return numbers;
  }
  // That every train row is at one client, and TrainRows says how many it has.
  static void ExpectDealt(const Population& population) {
    std::set<int> all;
    for (int64_t i = 0; i < population.size(); ++i) {
      const auto rows = population.Train(i, false);
      ASSERT_TRUE(rows.ok()) << rows.status();
      EXPECT_EQ((*rows)->rows(), population.TrainRows(i));
      EXPECT_GE((*rows)->rows(), 1);
      for (const int number : Numbers(**rows)) EXPECT_TRUE(all.insert(number).second) << number;
    }
    EXPECT_EQ(all.size(), 60);
  }

  const std::string folder_;
  proto::PopulationConfig config_;
};

TEST_F(PopulationTest, Column_ClientsAreItsValuesInOrderOfName) {
  config_.set_partition("column");
  config_.set_column("client");
  const auto population = Create();
  ASSERT_TRUE(population.ok()) << population.status();
  ASSERT_EQ((*population)->size(), 4);
  EXPECT_EQ((*population)->Name(0), "a");
  EXPECT_EQ((*population)->Name(3), "d");
  EXPECT_EQ((*population)->Find("d").value(), 3);
  EXPECT_EQ((*population)->Find("e").status().code(), absl::StatusCode::kNotFound);
  ExpectDealt(**population);
  const auto a = (*population)->Train(0, false), tests = (*population)->Test(0);
  EXPECT_THAT(Numbers(**a), testing::Each(testing::ResultOf([](int n) { return n % 4; }, 2)));
  EXPECT_THAT(Numbers(**tests), testing::Each(testing::ResultOf([](int n) { return n % 3; }, 2)));
  EXPECT_EQ((*population)->TestRows(2), 0) << "c has none";
  EXPECT_THAT(std::string((*population)->Test(2).status().message()), HasSubstr("client c has no rows"));
}

TEST_F(PopulationTest, Column_MinAndMaxRows) {
  config_.set_partition("column");
  config_.set_column("client");
  config_.set_max_rows(3);
  const auto population = Create();
  ASSERT_TRUE(population.ok()) << population.status();
  EXPECT_THAT(Numbers(**(*population)->Train(0, false)), ElementsAre(2, 6, 10)) << "the first";
  config_.set_min_rows(16);
  EXPECT_THAT(Refusal(), HasSubstr("no client has 16 rows or more, the largest has 15"));
}

TEST_F(PopulationTest, Column_RefusesAnUnknownColumnAndTwinNames) {
  config_.set_partition("column");
  config_.set_column("town");
  EXPECT_THAT(Refusal(), HasSubstr("found \"town\", the data have the columns client"));
  config_.set_column("client");
  WriteManifest(folder_, R"("groups": {"client": ["a", "b", "a", "c"]}, )");
  EXPECT_THAT(Refusal(), HasSubstr("two groups of column \"client\" are called \"a\""));
}

TEST_F(PopulationTest, Iid_DealsAllRows) {
  config_.set_clients(7);
  const auto population = Create();
  ASSERT_TRUE(population.ok()) << population.status();
  ExpectDealt(**population);
  EXPECT_EQ((*population)->size(), 7);
  EXPECT_EQ((*population)->Name(6), "client-6");
  EXPECT_EQ((*population)->Find("client-6").value(), 6);
  for (const char* name : {"client-7", "client-06", "client-", "client--1", "x"}) {
    EXPECT_FALSE((*population)->Find(name).ok()) << name;
  }
}

TEST_F(PopulationTest, Iid_QuantitySkewAndSeed) {
  config_.set_clients(7);
  config_.set_size_sigma(1.5);
  const auto first = Create(), again = Create();
  ASSERT_TRUE(first.ok()) << first.status();
  ExpectDealt(**first);
  int64_t largest = 0;
  for (int64_t i = 0; i < 7; ++i) {
    largest = std::max(largest, (*first)->TrainRows(i));
    EXPECT_EQ(Numbers(**(*first)->Train(i, false)), Numbers(**(*again)->Train(i, false)));
  }
  EXPECT_GT(largest, 15);
  config_.set_seed(2);
  EXPECT_NE(Numbers(**(*Create())->Train(0, false)), Numbers(**(*first)->Train(0, false)));
}

TEST_F(PopulationTest, Dirichlet_DealsAllRowsByLabel) {
  config_.set_partition("dirichlet");
  config_.set_clients(6);
  config_.set_alpha(0.01);
  const auto population = Create();
  ASSERT_TRUE(population.ok()) << population.status();
  ExpectDealt(**population);
  double labels = 0;
  for (int64_t i = 0; i < 6; ++i) {
    std::set<int> own;
    for (const int number : Numbers(**(*population)->Train(i, false))) own.insert(number % 3);
    labels += static_cast<double>(own.size()) / 6;
  }
  EXPECT_LT(labels, 2.8) << "mixes were drawn";
}

TEST_F(PopulationTest, RowsPerClient_LetsAPopulationBeLargerThanItsData) {
  config_.set_partition("dirichlet");
  config_.set_clients(100'000);
  config_.set_alpha(0.01);
  config_.set_rows_per_client(8);
  const auto population = Create();
  ASSERT_TRUE(population.ok()) << population.status();
  EXPECT_EQ((*population)->TrainRows(99'999), 8);
  EXPECT_EQ((*population)->Name(7), "client-00007");
  EXPECT_EQ((*population)->Train(99'999, false).value()->rows(), 8);
  EXPECT_LT((*population)->EstimateBytes(), 2'000) << "nothing is held for a client";
  config_.set_clients(1'000'000);
  EXPECT_EQ((*Create())->EstimateBytes(), (*population)->EstimateBytes());
}

TEST_F(PopulationTest, RowsPerClient_SizesFollowTheirMean) {
  config_.set_clients(4'000);
  config_.set_rows_per_client(50);
  config_.set_size_sigma(0.5);
  const auto population = Create();
  ASSERT_TRUE(population.ok()) << population.status();
  double sum = 0;
  for (int64_t i = 0; i < 4'000; ++i) sum += static_cast<double>((*population)->TrainRows(i));
  EXPECT_NEAR(sum / 4'000, 50, 2);
  config_.set_max_rows(20);
  config_.set_min_rows(20);
  EXPECT_EQ((*Create())->TrainRows(17), 20);
}

TEST_F(PopulationTest, MinRows_LeavesTheOthersTheirMix) {
  config_.set_partition("dirichlet");
  config_.set_clients(12);
  config_.set_alpha(0.01);
  config_.set_size_sigma(1);
  const auto all = Create();
  ASSERT_TRUE(all.ok()) << all.status();
  config_.set_min_rows(4);
  const auto kept = Create();
  ASSERT_TRUE(kept.ok()) << kept.status();
  std::map<std::vector<int>, int64_t> by_rows;
  for (int64_t i = 0; i < (*all)->size(); ++i) by_rows[Numbers(**(*all)->Train(i, false))] = i;
  bool moved = false;
  for (int64_t i = 0; i < (*kept)->size(); ++i) {
    const int64_t before = by_rows.at(Numbers(**(*kept)->Train(i, false)));
    EXPECT_EQ(Numbers(**(*kept)->Test(i)), Numbers(**(*all)->Test(before)));
    moved |= before != i;
  }
  EXPECT_TRUE(moved) << "nobody was left out";
}

TEST_F(PopulationTest, Test_DrawsRowsOfTheSameMix) {
  config_.set_partition("dirichlet");
  config_.set_clients(3);
  config_.set_alpha(1e-3);
  const auto population = Create();
  ASSERT_TRUE(population.ok()) << population.status();
  EXPECT_EQ((*population)->TestRows(0), 10) << "a third of them, as of the training rows";
  const auto rows = (*population)->Test(0);
  ASSERT_TRUE(rows.ok()) << rows.status();
  std::map<int, int> labels;
  for (const int number : Numbers(**rows)) ++labels[number % 3];
  EXPECT_EQ(labels.size(), 1) << "one label has all of its mix";
}

TEST_F(PopulationTest, Train_FlipsLabels) {
  config_.set_clients(1);
  const auto population = Create();
  const auto rows = (*population)->Train(0, false), flipped = (*population)->Train(0, true);
  ASSERT_TRUE(flipped.ok()) << flipped.status();
  for (int64_t i = 0; i < 60; ++i) EXPECT_EQ((*flipped)->label(i), 2 - (*rows)->label(i));
}

TEST_F(PopulationTest, Shifts_GoToClientsInTurn) {
  TestImages images;
  for (uint8_t i = 0; i < 12; ++i) images.Add({i, 1, 2, 3}, i % 3);
  for (const char* split : {"train", "test"}) {
    ASSERT_TRUE(WriteTestImages(absl::StrCat(folder_, "/", split, ".safetensors"), images).ok());
  }
  WriteManifest(folder_, "", "image_classification", R"(["x", "y", "z"])", 12, 12);
  config_.set_clients(4);
  config_.add_shifts()->set_kind("none");
  config_.add_shifts()->set_kind("invert");
  const auto population = Create();
  ASSERT_TRUE(population.ok()) << population.status();
  EXPECT_EQ((*population)->ShiftOf(3)->kind(), "invert");
  for (int64_t i = 0; i < 4; ++i) {
    for (const auto& rows : {(*population)->Train(i, false), (*population)->Test(i)}) {
      ASSERT_TRUE(rows.ok()) << rows.status();
      EXPECT_EQ((*rows)->pixels(0)[3], i % 2 == 0 ? 3 : 252);
    }
  }
}

TEST_F(PopulationTest, Folders_AreClientsByTheirName) {
  config_.set_partition("folders");
  Population::Options options{.config = config_, .seed = 1, .data = {}};
  options.data.emplace("ann", *DataFolder::Open(folder_));
  options.data.emplace("bob", *DataFolder::Open(folder_));
  const auto population = Population::Create(std::move(options));
  ASSERT_TRUE(population.ok()) << population.status();
  EXPECT_EQ((*population)->size(), 2);
  EXPECT_EQ((*population)->Find("bob").value(), 1);
  EXPECT_EQ((*population)->Train(1, false).value()->rows(), 60);
  EXPECT_EQ((*population)->Test(1).value()->rows(), 30);
  EXPECT_EQ((*population)->central().size(), 2);
}

TEST_F(PopulationTest, Folders_RefusesFoldersThatDiffer) {
  config_.set_partition("folders");
  Population::Options options{.config = config_, .seed = 1, .data = {}};
  options.data.emplace("ann", *DataFolder::Open(folder_));
  WriteManifest(folder_, "", "sequence_classification", R"(["x", "y", "w"])");
  options.data.emplace("bob", *DataFolder::Open(folder_));
  EXPECT_THAT(std::string(Population::Create(std::move(options)).status().message()),
              HasSubstr("folders ann and bob differ"));
  Population::Options none{.config = config_, .seed = 1, .data = {}};
  EXPECT_THAT(std::string(Population::Create(std::move(none)).status().message()), HasSubstr("holds no data folder"));
}

TEST_F(PopulationTest, Create_RefusesWhatCantBe) {
  EXPECT_THAT(Refusal(), HasSubstr("population.clients: missing"));
  config_.set_clients(61);
  EXPECT_THAT(Refusal(), HasSubstr("found 61, expected at most 60"));
  config_.set_clients(6);
  config_.set_min_rows(11);
  EXPECT_THAT(Refusal(), HasSubstr("the largest has 10"));
  config_.set_min_rows(1);
  config_.add_shifts()->set_kind("blur");
  EXPECT_THAT(Refusal(), HasSubstr("expected images"));
}

TEST_F(PopulationTest, Create_RefusesLabelsOfATaskWithout) {
  TestPairs pairs;
  for (int i = 0; i < 4; ++i) pairs.Add({1, 2}, {3});
  for (const char* split : {"train", "test"}) {
    ASSERT_TRUE(WriteTestPairs(absl::StrCat(folder_, "/", split, ".safetensors"), pairs).ok());
  }
  WriteManifest(folder_, "", "sentence_embedding", "[]", 4, 4);
  config_.set_clients(2);
  const auto population = Create();
  ASSERT_TRUE(population.ok()) << population.status();
  EXPECT_EQ((*population)->tokens_per_row(), 3);
  EXPECT_THAT(std::string((*population)->Train(0, true).status().message()), HasSubstr("label_flip needs labels"));
  config_.set_partition("dirichlet");
  EXPECT_THAT(Refusal(), HasSubstr("dirichlet mixes labels"));
}

}  // namespace
}  // namespace weft::simulation
