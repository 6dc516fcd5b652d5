#include "simulation/report/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "common/file.h"
#include "simulation/report/page.h"

namespace weft::simulation {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

class RunFolderTest : public testing::Test {
 protected:
  RunFolderTest() : folder_(testing::TempDir() + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(folder_);
    scenario_.mutable_job()->set_name("small");
    auto& config = *scenario_.mutable_job()->mutable_adapter()->mutable_config()->mutable_fields();
    for (const char* key : {"rank", "alpha", "other"}) config[key].set_number_value(2);
    for (int64_t round = 1; round <= 3; ++round) rounds_.push_back(Round(round));
  }
  static proto::RoundStatus Round(int64_t number) {
    proto::RoundStatus round;
    round.set_round(number);
    round.set_selected(10);
    round.set_updates(8);
    round.set_train_loss(1.0 / static_cast<double>(number));
    if (number > 1) {
      round.set_accuracy(0.2 * static_cast<double>(number));
      round.set_loss(2);
    }
    round.set_bytes_up(100);
    round.set_bytes_down(200);
    round.mutable_simulated()->set_clock_us(number * 1'500'000);
    round.mutable_simulated()->set_real_seconds(0.25);
    round.mutable_simulated()->set_hung(1);
    return round;
  }
  absl::StatusOr<std::unique_ptr<RunFolder>> Open(int64_t rounds) {
    return RunFolder::Open(folder_, scenario_, std::span(rounds_).first(static_cast<size_t>(rounds)));
  }
  std::string Read(const std::string& name) const { return ReadFile(folder_ + "/" + name).value_or("missing"); }
  static std::vector<ClientFigures> Clients() {
    std::vector<ClientFigures> clients;
    for (int i = 0; i < 20; ++i) {
      ClientFigures& client = clients.emplace_back();
      client.client = "client-" + std::to_string(i);
      client.accuracy = i == 0 ? 0.0 : i == 1 ? 0.1 : 0.5;
    }
    clients.emplace_back().client = "without rows";
    return clients;
  }
  const std::string folder_;
  proto::Scenario scenario_;
  std::vector<proto::RoundStatus> rounds_;
};

TEST_F(RunFolderTest, Add_WritesARoundInEachFormat) {
  const auto run = Open(0);
  ASSERT_TRUE(run.ok()) << run.status();
  for (const proto::RoundStatus& round : rounds_) ASSERT_TRUE((*run)->Add(round).ok());
  const std::string lines = Read("rounds.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3);
  const Json first = Json::parse(lines.substr(0, lines.find('\n')));
  EXPECT_EQ(first["round"], 1);
  EXPECT_FALSE(first.contains("accuracy")) << "what was not measured is left out";
  EXPECT_EQ(first["simulated_seconds"], 1.5);
  const std::string csv = Read("rounds.csv");
  EXPECT_THAT(csv, HasSubstr("round,train_loss,accuracy,loss,f1"));
  EXPECT_THAT(csv, HasSubstr("\n1,1.0,,,,,"));
  EXPECT_THAT(csv, HasSubstr("\n2,0.5,0.4,2.0,"));
  EXPECT_THAT(Read("events.out.tfevents.weft"), HasSubstr("evaluation/accuracy"));
}

TEST_F(RunFolderTest, Open_AgainWritesWhatWasCommittedAndNoMore) {
  {
    const auto run = Open(0);
    for (const proto::RoundStatus& round : rounds_) ASSERT_TRUE((*run)->Add(round).ok());
  }
  const auto size = std::filesystem::file_size(folder_ + "/events.out.tfevents.weft");
  const auto run = Open(2);
  ASSERT_TRUE(run.ok()) << run.status();
  ASSERT_TRUE((*run)->Add(rounds_[2]).ok());
  const std::string lines = Read("rounds.jsonl");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3);
  EXPECT_EQ(std::filesystem::file_size(folder_ + "/events.out.tfevents.weft"), size);
}

TEST_F(RunFolderTest, ADivergedLossIsNull) {
  rounds_[1].set_train_loss(std::numeric_limits<double>::quiet_NaN());
  rounds_[1].set_loss(std::numeric_limits<double>::infinity());
  const auto run = Open(2);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_THAT(Read("rounds.csv"), HasSubstr("\n2,,0.4,,"));
  ASSERT_TRUE((*run)
                  ->Finish({.state = "failed",
                            .message = "half a letter \xc3",
                            .version = "",
                            .device = "",
                            .delta = {},
                            .target_accuracy = {}},
                           {})
                  .ok());
  const auto read = ReadRun(folder_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE((*read)["rounds"][1]["train_loss"].is_null());
  EXPECT_TRUE((*read)["rounds"][1]["loss"].is_null());
}

TEST_F(RunFolderTest, Open_RefusesAnotherScenario) {
  ASSERT_TRUE(Open(0).ok());
  ASSERT_TRUE(Open(0).ok()) << "the same";
  scenario_.mutable_job()->set_seed(3);
  const absl::Status status = Open(0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("another scenario"));
}

TEST_F(RunFolderTest, Open_GoesOnInAnotherWay) {
  scenario_.mutable_run()->set_tokens_per_pass(8);
  ASSERT_TRUE(Open(0).ok());
  scenario_.mutable_run()->set_threads(3);
  scenario_.mutable_run()->set_kept_bytes(5);
  scenario_.mutable_run()->set_memory_bytes(7);
  scenario_.mutable_run()->set_out("./elsewhere");
  EXPECT_TRUE(Open(0).ok());
  EXPECT_THAT(Read("scenario.json"), HasSubstr("elsewhere"));
  scenario_.mutable_run()->set_tokens_per_pass(9);
  EXPECT_EQ(Open(0).status().code(), absl::StatusCode::kFailedPrecondition) << "the bits depend on it";
}

TEST_F(RunFolderTest, Check_WritesNothing) {
  EXPECT_TRUE(RunFolder::Check(folder_, scenario_).ok());
  EXPECT_FALSE(std::filesystem::exists(folder_));
}

TEST_F(RunFolderTest, Finish_IsNotFinishedWithoutItsPage) {
  const auto run = Open(3);
  std::filesystem::create_directories(folder_ + "/report.html");  // can't be written
  EXPECT_FALSE(
      (*run)
          ->Finish(
              {.state = "finished", .message = "", .version = "", .device = "", .delta = {}, .target_accuracy = {}}, {})
          .ok());
  EXPECT_FALSE(IsFinished(folder_, scenario_));
}

TEST_F(RunFolderTest, Finish_SumsUp) {
  const auto run = Open(3);
  RunSummary summary;
  summary.state = "finished";
  summary.best_round = 3;
  summary.best_accuracy = 0.6;
  summary.target_accuracy = 0.5;
  EXPECT_FALSE(IsFinished(folder_, scenario_));
  ASSERT_TRUE((*run)->Finish(summary, Clients()).ok());
  EXPECT_TRUE(IsFinished(folder_, scenario_));
  const Json json = Json::parse(Read("summary.json"));
  EXPECT_NEAR(json["final_accuracy"], 0.6, 1e-12);
  EXPECT_EQ(json["bytes_up"], 300);
  EXPECT_EQ(json["updates"], 24);
  EXPECT_EQ(json["real_seconds"], 0.75);
  EXPECT_EQ(json["updates_per_second"], 32);
  EXPECT_EQ(json["simulated_seconds"], 4.5);
  EXPECT_EQ(json["to_target"]["round"], 3);
  EXPECT_EQ(json["to_target"]["simulated_seconds"], 4.5);
  EXPECT_EQ(json["to_target"]["real_seconds"], 0.75);
  EXPECT_EQ(json["to_target"]["bytes_up"], 300);
  EXPECT_EQ(json["clients"]["clients"], 20);
  EXPECT_NEAR(json["clients"]["mean"], 0.455, 1e-12);
  EXPECT_NEAR(json["clients"]["worst_tenth"], 0.05, 1e-12);
  EXPECT_NEAR(json["clients"]["sd"], 0.1359, 1e-4);
  EXPECT_EQ(json["clients"]["median"], 0.5);
  const auto again = ReadRun(folder_ + "/");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)["name"], std::filesystem::path(folder_).filename().string());
  EXPECT_THAT(Read("report.html"), HasSubstr((*again)["summary"].dump(-1).substr(0, 20)));
  EXPECT_EQ((*again)["rounds"].size(), 3);
  EXPECT_EQ((*again)["clients"].size(), 21);
  EXPECT_EQ((*again)["scenario"]["job"]["name"], "small");
  scenario_.mutable_job()->set_seed(3);
  EXPECT_FALSE(IsFinished(folder_, scenario_));
}

TEST_F(RunFolderTest, Finish_WithoutClientsOrEvaluations) {
  const auto run = Open(1);
  ASSERT_TRUE(
      (*run)
          ->Finish({.state = "failed", .message = "", .version = "", .device = "", .delta = {}, .target_accuracy = {}},
                   {})
          .ok());
  const Json json = Json::parse(Read("summary.json"));
  EXPECT_FALSE(json.contains("final_accuracy"));
  EXPECT_FALSE(json.contains("clients"));
}

TEST_F(RunFolderTest, ReadRun_RefusesWhatIsNone) {
  EXPECT_EQ(ReadRun(folder_).status().code(), absl::StatusCode::kNotFound);
  const std::string sweep = testing::TempDir() + "sweep";
  ASSERT_TRUE(MakeDirectories(sweep).ok());
  ASSERT_TRUE(WriteFileAtomically(sweep + "/table.json", std::string_view("[]")).ok());
  EXPECT_THAT(std::string(ReadRun(sweep).status().message()), HasSubstr("is a sweep"));
  const auto run = Open(1);
  EXPECT_THAT(std::string(ReadRun(folder_).status().message()), HasSubstr("no finished run"));
  ASSERT_TRUE(
      (*run)
          ->Finish(
              {.state = "finished", .message = "", .version = "", .device = "", .delta = {}, .target_accuracy = {}}, {})
          .ok());
  ASSERT_TRUE(WriteFileAtomically(folder_ + "/rounds.jsonl", std::string_view("{\"round\": 1}\nhalf")).ok());
  EXPECT_EQ(ReadRun(folder_).status().code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(WriteFileAtomically(folder_ + "/summary.json", std::string_view("{")).ok());
  EXPECT_EQ(ReadRun(folder_).status().code(), absl::StatusCode::kDataLoss);
}

TEST(PageOfTest, IsOneFileWithItsDataInside) {
  const std::string page = PageOf({{{"name", "a</script><b>"}, {"rounds", Json::array()}}});
  EXPECT_THAT(page, HasSubstr("a\\u003c/script>\\u003cb>"));
  EXPECT_THAT(page, HasSubstr("function drawCurve"));
  EXPECT_THAT(page, HasSubstr("color-scheme: light dark"));
  for (const char* left : {"/*STYLE*/", "/*SCRIPT*/", "/*DATA*/", "src=", "href="}) {
    EXPECT_EQ(page.find(left), std::string::npos) << left;
  }
}

}  // namespace
}  // namespace weft::simulation
