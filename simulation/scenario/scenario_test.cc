#include "simulation/scenario/scenario.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/file.h"

namespace weft::simulation {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr char kScenario[] = R"(
job:
  name: digits
  base: {path: base}
  task: {type: image_classification}
  adapter: {form: lora, config: {rank: 4, target_modules: [query]}}
population: {data: ../data/digits, partition: iid, clients: 10}
run: {out: runs}
)";

class ScenarioTest : public testing::Test {
 protected:
  ScenarioTest() : path_(testing::TempDir() + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    EXPECT_TRUE(MakeDirectories(path_ + "/scenarios").ok());
    path_ += "/scenarios/digits.yaml";
  }
  absl::StatusOr<std::vector<ScenarioRun>> Load(const std::string& more, const std::vector<std::string>& sets = {}) {
    EXPECT_TRUE(WriteFileAtomically(path_, absl::StrCat(kScenario, more)).ok());
    return LoadScenario(path_, sets);
  }
  std::string MessageOf(const std::string& more, const std::vector<std::string>& sets = {}) {
    const auto runs = Load(more, sets);
    EXPECT_EQ(runs.status().code(), absl::StatusCode::kInvalidArgument) << runs.status();
    return std::string(runs.status().message());
  }
  std::string path_;
};

TEST(ReadyScenariosTest, AllAreRead) {
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator("simulation/scenarios")) {
    if (entry.path().extension() != ".yaml") continue;
    ++found;
    const auto runs = LoadScenario(entry.path().string(), {});
    EXPECT_TRUE(runs.ok()) << runs.status();
  }
  EXPECT_GE(found, 8);
}

TEST_F(ScenarioTest, Load_WithoutSweepIsOneRunNamedLikeTheJob) {
  const auto runs = Load("");
  ASSERT_TRUE(runs.ok()) << runs.status();
  ASSERT_EQ(runs->size(), 1);
  EXPECT_EQ(runs->front().folder, "runs/digits");
  EXPECT_TRUE(runs->front().values.empty());
  EXPECT_EQ(runs->front().scenario.evaluation().final_clients(), 200) << "defaults are filled in";
}

TEST_F(ScenarioTest, Load_PathsAreRelativeToTheFile) {
  const auto runs = Load("");
  ASSERT_TRUE(runs.ok()) << runs.status();
  const std::string folder = path_.substr(0, path_.rfind("/scenarios/"));
  EXPECT_EQ(runs->front().scenario.population().data(), folder + "/data/digits");
  EXPECT_EQ(runs->front().scenario.job().base().path(), folder + "/scenarios/base");
  EXPECT_EQ(runs->front().scenario.behaviour().speed().trace(), "");
}

TEST_F(ScenarioTest, Load_OverridesReachEveryRun) {
  const auto runs = Load("sweep: {job.seed: [1, 2]}", {"population.clients=7"});
  ASSERT_TRUE(runs.ok()) << runs.status();
  for (const ScenarioRun& run : *runs) EXPECT_EQ(run.scenario.population().clients(), 7);
}

TEST_F(ScenarioTest, Load_WhatIsOverriddenIsNotSwept) {
  const auto one = Load("sweep: {job.seed: [1, 2]}", {"job.seed=7"});
  ASSERT_TRUE(one.ok()) << one.status();
  ASSERT_EQ(one->size(), 1);
  EXPECT_EQ(one->front().scenario.job().seed(), 7);
  EXPECT_EQ(one->front().folder, "runs/digits");
  EXPECT_FALSE(one->front().scenario.has_sweep());
  const auto two = Load("sweep: {job.seed: [1, 2], population.alpha: [0.1, 1]}", {"job.seed=7"});
  ASSERT_TRUE(two.ok()) << two.status();
  ASSERT_EQ(two->size(), 2);
  EXPECT_EQ(two->back().scenario.job().seed(), 7);
  EXPECT_EQ(two->back().folder, "runs/digits/alpha=1");
  EXPECT_EQ(Load("sweep: {job.seed: [1, 2]}", {"sweep={}"})->size(), 1);
  const char* whole = "sweep: {job.aggregator: [{name: fedavg}, {name: dp, config: {clip_norm: 0.5}}]}";
  EXPECT_THAT(MessageOf(whole, {"job.aggregator.name=rolora"}), HasSubstr("the sweep sets job.aggregator"));
  EXPECT_THAT(MessageOf("sweep: {job.aggregator.name: [fedavg]}", {"job.aggregator={name: rolora}"}),
              HasSubstr("the sweep sets job.aggregator.name"));
}

TEST_F(ScenarioTest, Load_ARunKeepsItsFolderWhenTheSweepGrows) {
  const auto before = Load("sweep: {job.aggregator.name: [fedavg, rolora], job.seed: [1, 2]}");
  const auto after = Load("sweep: {job.aggregator.name: [fedavg, rolora], job.seed: [1, 2, 3]}");
  ASSERT_TRUE(before.ok() && after.ok());
  EXPECT_EQ((*before)[3].folder, "runs/digits/aggregator=rolora,seed=2");
  EXPECT_EQ((*before)[3].folder, (*after)[4].folder);
}

TEST_F(ScenarioTest, Load_ValuesThatMakeNoNameHaveFoldersOfTheirOwn) {
  const auto runs = Load("sweep: {job.base.path: [a/b, a_b, \"a b\"]}");
  ASSERT_TRUE(runs.ok()) << runs.status();
  const std::set<std::string> folders = {(*runs)[0].folder, (*runs)[1].folder, (*runs)[2].folder};
  EXPECT_EQ(folders.size(), 3);
  EXPECT_EQ((*runs)[1].folder, "runs/digits/path=a_b");
}

TEST_F(ScenarioTest, Load_SweepIsAllCombinationsInOrder) {
  const auto runs = Load(
      "sweep: {job.seed: [1, 2], job.aggregator: [{name: fedavg}, {name: dp, config: {clip_norm: 0.5}}], "
      "population.alpha: [0.1]}");
  ASSERT_TRUE(runs.ok()) << runs.status();
  ASSERT_EQ(runs->size(), 4);
  EXPECT_THAT((*runs)[1].values, ElementsAre(Pair("job.aggregator", HasSubstr("fedavg")), Pair("job.seed", "2"),
                                             Pair("population.alpha", "0.1")));
  EXPECT_EQ((*runs)[1].scenario.job().seed(), 2);
  EXPECT_EQ((*runs)[1].scenario.job().aggregator().name(), "fedavg");
  EXPECT_EQ((*runs)[2].scenario.job().aggregator().name(), "dp");
  EXPECT_EQ((*runs)[2].scenario.job().aggregator().config().fields().at("clip_norm").number_value(), 0.5);
  EXPECT_EQ((*runs)[2].scenario.population().alpha(), 0.1);
  EXPECT_FALSE((*runs)[2].scenario.has_sweep());
  std::set<std::string> folders;
  for (const ScenarioRun& run : *runs) {
    folders.insert(run.folder);
    EXPECT_TRUE(run.folder.starts_with("runs/digits/")) << run.folder;
    EXPECT_EQ(run.folder.find_first_of("{}\" :"), std::string::npos) << run.folder;
  }
  EXPECT_EQ(folders.size(), 4);
}

TEST_F(ScenarioTest, Load_RefusesABadCombinationNamingIt) {
  const std::string message = MessageOf("sweep: {population.alpha: [0.1, -1]}");
  EXPECT_THAT(message, HasSubstr("population.alpha = -1"));
}

TEST_F(ScenarioTest, Load_RefusesUnknownSettingsOfASweep) {
  EXPECT_THAT(MessageOf("sweep: {population.alfa: [1]}"), HasSubstr("alpha"));
}

TEST_F(ScenarioTest, Load_RefusesASweepWithoutValues) {
  EXPECT_THAT(MessageOf("sweep: {population.alpha: []}"), HasSubstr("expected one such as"));
  EXPECT_THAT(MessageOf("sweep: {population.alpha: 3}"), HasSubstr("expected one such as"));
}

TEST_F(ScenarioTest, Load_RefusesToSweepNames) {
  EXPECT_THAT(MessageOf("sweep: {job.name: [a, b]}"), HasSubstr("can't be swept"));
}

TEST_F(ScenarioTest, Load_RefusesTooManyRuns) {
  std::string values = "0";
  for (int i = 1; i < 101; ++i) absl::StrAppend(&values, ", ", i);
  EXPECT_THAT(MessageOf(absl::StrCat("sweep: {job.seed: [", values, "], population.seed: [", values, "]}")),
              HasSubstr("10000"));
}

TEST_F(ScenarioTest, Load_RefusesNamesThatAreNoFolder) {
  EXPECT_THAT(MessageOf("", {"job.name=a/b"}), HasSubstr("job.name"));
}

TEST_F(ScenarioTest, Load_RefusesUnknownKeysWithTheLine) {
  EXPECT_THAT(MessageOf("behavior: {}"), HasSubstr("digits.yaml:9"));
}

}  // namespace
}  // namespace weft::simulation
