#include "simulation/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/testing/fake_trainer.h"
#include "client/testing/test_folders.h"
#include "common/file.h"
#include "proto/schema.h"

namespace weft::simulation {
namespace {

using ::testing::HasSubstr;

// A population over a fake trainer. Change scenario_ and then Make.
class EngineTest : public testing::Test {
 protected:
  EngineTest() : base_(MakeTestFolder("base")), data_(MakeTestFolder("data")), folder_(MakeTestFolder("run")) {
    WriteTestBase(base_);
    WriteTestData(data_, {.train_rows = 40, .test_rows = 600});
    proto::JobConfig& job = *scenario_.mutable_job();
    job.set_name("small");
    job.mutable_training()->set_max_length(16);
    job.mutable_training()->set_batch_size(4);
    job.mutable_stop()->set_rounds(4);
    auto& form = *job.mutable_adapter()->mutable_config()->mutable_fields();
    form["rank"].set_number_value(2);
    for (const char* module : {"query", "value"}) {
      form["target_modules"].mutable_list_value()->add_values()->set_string_value(module);
    }
    scenario_.mutable_population()->set_clients(10);
  }

  void Select(int64_t clients, double over_select = 1) {
    proto::SelectionConfig& selection = *scenario_.mutable_job()->mutable_selection();
    selection.set_rule("uniform");
    selection.set_clients(clients);
    selection.set_over_select(over_select);
  }

  // An engine of its own trainer, population and behaviour, which live until the next.
  absl::StatusOr<std::unique_ptr<Engine>> Make(int threads = 1, const std::string& folder = "") {
    proto::ApplyDefaults(&scenario_);
    auto trainer = FakeTrainer::Create(
        trainer_options_ = {
            .base = base_, .hold = nullptr, .train_status = train_status_, .evaluate_status = evaluate_status_});
    EXPECT_TRUE(trainer.ok()) << trainer.status();
    trainer_ = *std::move(trainer);
    Population::Options population{.config = scenario_.population(), .seed = scenario_.job().seed(), .data = {}};
    population.data.emplace("data", *DataFolder::Open(data_));
    auto made = Population::Create(std::move(population));
    if (!made.ok()) return made.status();
    population_ = *std::move(made);
    auto behaviour = Behaviour::Create(
        {.config = scenario_.behaviour(), .clients = population_->size(), .seed = scenario_.job().seed()});
    if (!behaviour.ok()) return behaviour.status();
    behaviour_ = *std::move(behaviour);
    proto::JobConfig config = scenario_.job();
    config.mutable_base()->set_hash(trainer_->base_hash());
    config.mutable_base()->set_config_json(*ReadFile(base_ + "/config.json"));
    for (const std::string& label : population_->labels()) config.mutable_task()->add_labels(label);
    proto::CoordinatorConfig limits;
    limits.set_state_dir("none");
    proto::ApplyDefaults(&limits);
    auto job = server::CheckJob(config, limits);
    if (!job.ok()) return job.status();
    Engine::Options options;
    options.scenario = scenario_;
    job_ = *std::move(job);
    options.site = {&job_, trainer_.get(), population_.get(), behaviour_.get(), threads};
    if (scenario_.evaluation().central()) options.central = population_->central();
    for (int64_t i = 0; i < scenario_.evaluation().clients(); ++i) options.evaluators.push_back(i);
    options.tokens_per_pass = 24;
    options.tokens_per_row = population_->tokens_per_row();
    options.folder = folder;
    return Engine::Create(std::move(options));
  }

  struct Outcome {
    std::vector<proto::RoundStatus> rounds;
    std::string bytes;  // of the last state
    proto::JobStatus status;
  };
  // Runs to the end, in a number of goes that each end after so many rounds.
  Outcome Run(int threads = 1, const std::string& folder = "", int64_t rounds_a_go = 1000) {
    Outcome outcome;
    for (int go = 0; go < 50; ++go) {
      auto engine = Make(threads, folder);
      EXPECT_TRUE(engine.ok()) << engine.status();
      if (!engine.ok()) return outcome;
      EXPECT_EQ((*engine)->reported(), static_cast<int64_t>(outcome.rounds.size()));
      int64_t left = rounds_a_go;
      const absl::Status status = (*engine)->Run([&](const proto::RoundStatus& round) {
        outcome.rounds.push_back(round);
        return --left > 0;
      });
      EXPECT_TRUE(status.ok()) << status;
      outcome.status = (*engine)->Status();
      const auto bytes = (*engine)->state()->bytes();
      outcome.bytes.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      if (!status.ok() || outcome.status.state() == proto::FINISHED || outcome.status.state() == proto::FAILED) break;
    }
    return outcome;
  }
  std::string Refusal() {
    const absl::Status status = Make().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }
  // Everything about rounds but real time.
  static void ExpectSame(const Outcome& a, const Outcome& b) {
    EXPECT_EQ(a.bytes, b.bytes);
    ASSERT_EQ(a.rounds.size(), b.rounds.size());
    for (size_t i = 0; i < a.rounds.size(); ++i) {
      proto::RoundStatus left = a.rounds[i], right = b.rounds[i];
      for (proto::RoundStatus* round : {&left, &right}) round->mutable_simulated()->clear_real_seconds();
      EXPECT_EQ(left.ShortDebugString(), right.ShortDebugString());
    }
  }

  const std::string base_, data_, folder_;
  proto::Scenario scenario_;
  absl::Status train_status_, evaluate_status_;
  server::CheckedJob job_;
  FakeTrainer::Options trainer_options_;
  std::unique_ptr<FakeTrainer> trainer_;
  std::unique_ptr<Population> population_;
  std::unique_ptr<Behaviour> behaviour_;
};

TEST_F(EngineTest, Run_CommitsAndEvaluatesEveryRound) {
  scenario_.mutable_job()->mutable_training()->set_steps(40);
  Select(4);
  const Outcome outcome = Run();
  EXPECT_EQ(outcome.status.state(), proto::FINISHED) << outcome.status.message();
  ASSERT_EQ(outcome.rounds.size(), 4);
  for (const proto::RoundStatus& round : outcome.rounds) {
    EXPECT_EQ(round.selected(), 4);
    EXPECT_EQ(round.updates(), 4);
    EXPECT_EQ(round.examples(), 16);
    EXPECT_TRUE(round.has_accuracy());
    EXPECT_EQ(round.evaluated_examples(), 600);
    EXPECT_GT(round.bytes_up(), 0);
    EXPECT_GT(round.bytes_down(), 0);
    EXPECT_EQ(round.simulated().downloaded_size(), 4);
  }
  EXPECT_GT(outcome.rounds.back().accuracy(), outcome.rounds.front().accuracy());
}

TEST_F(EngineTest, Run_SameBitsWhateverTheThreads) {
  Select(7);
  ExpectSame(Run(1), Run(3));
}

TEST_F(EngineTest, Run_SameBitsWithAndWithoutAFolder) {
  Select(5);
  ExpectSame(Run(1), Run(1, folder_));
}

// Everything at once: dropouts, stragglers, hangs, over-selection, error feedback, hostile clients.
class EngineStormTest : public EngineTest {
 protected:
  EngineStormTest() {
    Select(4, 1.5);
    proto::JobConfig& job = *scenario_.mutable_job();
    job.mutable_stop()->set_rounds(8);
    job.mutable_encoding()->set_values("int8");
    job.mutable_round()->set_min_updates(3);
    proto::BehaviourConfig& behaviour = *scenario_.mutable_behaviour();
    behaviour.mutable_speed()->set_rows_per_second(0.5);
    behaviour.mutable_speed()->set_sigma(1);
    behaviour.mutable_speed()->set_stragglers(0.2);
    behaviour.mutable_link()->set_up_bytes_per_second(100);
    behaviour.mutable_link()->set_down_bytes_per_second(500);
    behaviour.mutable_dropout()->set_in_training(0.15);
    behaviour.mutable_dropout()->set_in_upload(0.1);
    behaviour.mutable_dropout()->set_hang(0.15);
    proto::HostileConfig& hostile = *behaviour.add_hostile();
    hostile.set_attack("nan");
    hostile.set_part(0.1);
  }
};

TEST_F(EngineStormTest, Run_SameBitsWhateverTheThreadsAndTheGoes) {
  const Outcome whole = Run(1);
  ASSERT_EQ(whole.rounds.size(), 8) << whole.status.message();
  int64_t refused = 0, lost = 0, hung = 0;
  for (const proto::RoundStatus& round : whole.rounds) {
    EXPECT_GE(round.updates(), 3);
    EXPECT_LE(round.updates(), 4);
    EXPECT_GT(round.train_seconds(), 0);
    refused += round.simulated().refused();
    lost += round.simulated().lost();
    hung += round.simulated().hung();
  }
  EXPECT_GT(refused, 0) << "of NaN";
  EXPECT_GT(lost, 0);
  EXPECT_GT(hung, 0);
  ExpectSame(whole, Run(4));
  ExpectSame(whole, Run(1, folder_, 1));
  std::filesystem::remove_all(folder_);
  ExpectSame(whole, Run(2, folder_, 3));
}

TEST_F(EngineStormTest, Run_SimulatedTimeGoesOnFromRoundToRound) {
  const Outcome outcome = Run();
  int64_t before = 0;
  for (const proto::RoundStatus& round : outcome.rounds) {
    EXPECT_GE(round.simulated().clock_us() - before, static_cast<int64_t>(round.train_seconds() * 1e6) - 1);
    before = round.simulated().clock_us();
  }
}

TEST_F(EngineTest, Run_RulesThatKeepStateOrChangeTheBaseGoOnWithTheSameBits) {
  for (const char* rule : {"scaffold", "fedsa_lora", "flora", "fedex_lora", "hetlora", "lora_a2", "rolora"}) {
    std::filesystem::remove_all(folder_);
    proto::AggregatorConfig& aggregator = *scenario_.mutable_job()->mutable_aggregator();
    aggregator.Clear();
    aggregator.set_name(rule);
    auto& config = *aggregator.mutable_config()->mutable_fields();
    if (std::string(rule) == "scaffold") config["clients"].set_number_value(10);
    if (std::string(rule) == "lora_a2") config["budget"].set_number_value(1);
    scenario_.mutable_job()->mutable_training()->set_optimizer(std::string(rule) == "scaffold" ? "sgd" : "adamw");
    scenario_.mutable_job()->mutable_training()->set_clip_grad_norm(0);
    Select(3);
    const Outcome whole = Run(1);
    ASSERT_EQ(whole.rounds.size(), 4) << rule << ": " << whole.status.message();
    SCOPED_TRACE(rule);
    ExpectSame(whole, Run(2, folder_, 1));
  }
}

TEST_F(EngineTest, Run_AClientDownloadsWhatHasChangedSinceItLastDid) {
  scenario_.mutable_job()->mutable_aggregator()->set_name("ffa_lora");
  const Outcome outcome = Run();
  EXPECT_LT(outcome.rounds[1].bytes_down(), outcome.rounds[0].bytes_down()) << "A stays";
  EXPECT_EQ(outcome.rounds[2].bytes_down(), outcome.rounds[1].bytes_down());
}

TEST_F(EngineTest, Run_AClientThatIsLostInItsDownloadHasPartOfIt) {
  proto::BehaviourConfig& behaviour = *scenario_.mutable_behaviour();
  behaviour.mutable_link()->set_down_bytes_per_second(100);
  scenario_.mutable_job()->mutable_stop()->set_rounds(1);
  const Outcome all = Run();
  behaviour.mutable_dropout()->set_before_training(0.5);
  const Outcome some = Run();
  const int64_t lost = some.rounds[0].simulated().lost();
  ASSERT_GT(lost, 0);
  EXPECT_EQ(some.rounds[0].simulated().downloaded_size(), 10 - lost);
  EXPECT_LT(some.rounds[0].bytes_down(), all.rounds[0].bytes_down());
  EXPECT_GT(some.rounds[0].bytes_down() * 10, all.rounds[0].bytes_down() * static_cast<uint64_t>(10 - lost));
}

TEST_F(EngineTest, Run_TrainsOnlyWhatArrives) {
  Select(2, 5);
  scenario_.mutable_population()->set_rows_per_client(4);
  scenario_.mutable_job()->mutable_stop()->set_rounds(1);
  scenario_.mutable_behaviour()->mutable_speed()->set_rows_per_second(1);
  scenario_.mutable_behaviour()->mutable_speed()->set_sigma(1);
  const Outcome outcome = Run();
  EXPECT_EQ(outcome.rounds[0].updates(), 2);
  EXPECT_EQ(outcome.rounds[0].selected(), 10);
  EXPECT_LT(trainer_->trained(), 10) << "groups that come too late are not trained";
}

TEST_F(EngineTest, Run_AbandonedRoundsAreTriedAgainAndFailTheJobInTheEnd) {
  scenario_.mutable_job()->mutable_round()->set_max_attempts(3);
  scenario_.mutable_behaviour()->mutable_dropout()->set_in_training(1);
  scenario_.mutable_behaviour()->mutable_speed()->set_rows_per_second(1);
  const Outcome outcome = Run();
  EXPECT_EQ(outcome.status.state(), proto::FAILED);
  EXPECT_THAT(outcome.status.message(), HasSubstr("abandoned 3 times"));
}

TEST_F(EngineTest, Run_FailuresOfTrainingCostTheirClients) {
  train_status_ = absl::OutOfRangeError("the loss is not a finite number");
  scenario_.mutable_job()->mutable_round()->set_max_attempts(1);
  const Outcome outcome = Run();
  EXPECT_EQ(outcome.status.state(), proto::FAILED);
  EXPECT_THAT(outcome.status.message(), HasSubstr("not a finite number"));
}

TEST_F(EngineTest, Run_OtherFailuresEndTheRun) {
  train_status_ = absl::ResourceExhaustedError("training would take too much");
  auto engine = Make();
  ASSERT_TRUE(engine.ok());
  // Per member, so it is what a member came to; the trainer itself has it as a status of the call.
  EXPECT_EQ((*engine)->Run([](const proto::RoundStatus&) { return true; }).code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(EngineTest, Run_DailyAvailabilityDrawsOnlyWhoIsThere) {
  Select(3);
  scenario_.mutable_behaviour()->mutable_availability()->set_kind("daily");
  scenario_.mutable_behaviour()->mutable_availability()->set_part(0.5);
  scenario_.mutable_behaviour()->mutable_speed()->set_rows_per_second(0.001);  // a round takes hours
  scenario_.mutable_job()->mutable_round()->mutable_progress_timeout()->set_seconds(600);
  const Outcome outcome = Run(1);
  EXPECT_EQ(outcome.status.state(), proto::FINISHED) << outcome.status.message();
  EXPECT_GT(outcome.rounds.back().simulated().clock_us(), 3'600'000'000LL);
  ExpectSame(outcome, Run(1, folder_, 1));
}

TEST_F(EngineTest, EvaluateClients_OnTheirOwnRows) {
  scenario_.mutable_evaluation()->set_central(false);
  scenario_.mutable_evaluation()->set_clients(3);
  auto engine = Make();
  ASSERT_TRUE(engine.ok()) << engine.status();
  ASSERT_TRUE((*engine)
                  ->Run([](const proto::RoundStatus& round) {
                    EXPECT_TRUE(round.has_accuracy());
                    return true;
                  })
                  .ok());
  const auto evaluations = (*engine)->EvaluateClients({0, 4, 7});
  ASSERT_TRUE(evaluations.ok()) << evaluations.status();
  ASSERT_EQ(evaluations->size(), 3);
  EXPECT_EQ((*evaluations)[1].client, 4);
  EXPECT_EQ((*evaluations)[1].figures.examples(), population_->TestRows(4));
}

TEST_F(EngineTest, Export_IsOfTheBestRound) {
  scenario_.mutable_job()->mutable_training()->set_steps(40);
  auto engine = Make();
  ASSERT_TRUE(engine.ok());
  ASSERT_TRUE((*engine)->Run([](const proto::RoundStatus&) { return true; }).ok());
  proto::JobConfig config;
  const auto adapter = (*engine)->Export(&config);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(server::BestRound((*engine)->history().rounds), 4);
  EXPECT_TRUE(std::equal(adapter->bytes().begin(), adapter->bytes().end(), (*engine)->state()->bytes().begin()));
}

// The last evaluation covers one row, of which none comes out right: the last round is the best only until then.
TEST_F(EngineTest, Export_OfAnEarlierRoundWhenTheLastEvaluationTakesTheLead) {
  proto::JobConfig& job = *scenario_.mutable_job();
  job.mutable_training()->set_steps(40);
  Select(3);
  const double target = Run().rounds[2].accuracy();
  job.mutable_stop()->set_target_accuracy(target);
  job.mutable_evaluation()->set_final_rows(1);
  for (const int64_t stop_after : {9, 2, 3}) {  // the last time after all is evaluated
    std::filesystem::remove_all(folder_);
    if (stop_after < 9) {
      auto engine = Make(1, folder_);
      ASSERT_TRUE(engine.ok()) << engine.status();
      ASSERT_TRUE((*engine)->Run([&](const proto::RoundStatus& round) { return round.round() < stop_after; }).ok());
    }
    auto engine = Make(1, folder_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    ASSERT_TRUE((*engine)->Run([](const proto::RoundStatus&) { return true; }).ok());
    ASSERT_EQ((*engine)->history().rounds.size(), 3);
    EXPECT_EQ((*engine)->history().rounds.back().status.accuracy(), 0);
    EXPECT_EQ(server::BestRound((*engine)->history().rounds), 2);
    proto::JobConfig config;
    const auto adapter = (*engine)->Export(&config);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    EXPECT_FALSE(std::equal(adapter->bytes().begin(), adapter->bytes().end(), (*engine)->state()->bytes().begin()));
  }
}

TEST_F(EngineTest, Run_AnEvaluationThatIsLeftIsDoneAndReported) {
  scenario_.mutable_job()->mutable_training()->set_steps(40);
  scenario_.mutable_job()->mutable_evaluation()->set_every(0);
  evaluate_status_ = absl::ResourceExhaustedError("no room");
  auto engine = Make(1, folder_);
  ASSERT_TRUE(engine.ok()) << engine.status();
  std::vector<int64_t> seen;
  const auto observer = [&](const proto::RoundStatus& round) {
    seen.push_back(round.round());
    EXPECT_EQ(round.has_accuracy(), round.round() == 4);
    return true;
  };
  EXPECT_EQ((*engine)->Run(observer).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(seen, testing::ElementsAre(1, 2, 3));
  engine->reset();
  evaluate_status_ = absl::OkStatus();
  engine = Make(1, folder_);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->reported(), 3);
  ASSERT_TRUE((*engine)->Run(observer).ok());
  EXPECT_THAT(seen, testing::ElementsAre(1, 2, 3, 4));
}

TEST_F(EngineStormTest, Run_SameBitsWhenClientsThatHadStalledEvaluate) {
  scenario_.mutable_behaviour()->mutable_dropout()->set_hang(0.4);
  scenario_.mutable_job()->mutable_round()->set_min_updates(1);
  scenario_.mutable_job()->mutable_stop()->set_rounds(12);
  scenario_.mutable_job()->mutable_evaluation()->set_every(2);
  scenario_.mutable_evaluation()->set_central(false);
  scenario_.mutable_evaluation()->set_clients(10);
  const Outcome whole = Run(1);
  ASSERT_EQ(whole.rounds.size(), 12) << whole.status.message();
  bool stalled = false;
  for (const proto::RoundStatus& round : whole.rounds) stalled |= round.simulated().standings_size() > 0;
  EXPECT_TRUE(stalled);
  ExpectSame(whole, Run(1, folder_, 1));
}

TEST_F(EngineTest, Run_MixedRanksSendLess) {
  scenario_.mutable_job()->mutable_adapter()->set_head(false);
  scenario_.mutable_job()->mutable_aggregator()->set_name("hetlora");
  const Outcome all = Run();
  proto::RankConfig& ranks = *scenario_.mutable_behaviour()->add_ranks();
  ranks.set_part(0.5);
  ranks.set_rank(1);
  const Outcome mixed = Run();
  EXPECT_EQ(mixed.rounds[0].updates(), 10);
  EXPECT_EQ(mixed.rounds[0].bytes_up() * 4, all.rounds[0].bytes_up() * 3) << "half of them half";
  scenario_.mutable_job()->mutable_aggregator()->set_name("fedavg");
  EXPECT_THAT(Refusal(), HasSubstr("behaviour.ranks: found rank 1, rule fedavg needs all 2"));
}

TEST_F(EngineTest, Create_RefusesPrivacyThatTheRunHasNot) {
  proto::JobConfig& job = *scenario_.mutable_job();
  job.mutable_adapter()->set_head(false);
  job.mutable_aggregator()->set_name("dp");
  auto& config = *job.mutable_aggregator()->mutable_config()->mutable_fields();
  for (const auto& [key, value] : std::map<std::string, double>{
           {"clip_norm", 1}, {"noise_multiplier", 1}, {"epsilon_budget", 1000}, {"delta", 1e-4}, {"clients", 10}}) {
    config[key].set_number_value(value);
  }
  job.mutable_selection()->set_rule("poisson");
  job.mutable_selection()->set_rate(0.5);
  job.mutable_round()->set_min_updates(0);
  EXPECT_TRUE(Make().ok()) << Make().status();
  config["clients"].set_number_value(9);
  EXPECT_THAT(Refusal(), HasSubstr("job.aggregator.config.clients: found 9, expected at least 10"));
  config["clients"].set_number_value(10);
  const std::string path = MakeTestFolder("trace") + "/cohorts";
  ASSERT_TRUE(WriteFileAtomically(path, std::string_view("client-7\n")).ok());
  scenario_.mutable_behaviour()->set_cohorts(path);
  EXPECT_THAT(Refusal(), HasSubstr("behaviour.cohorts"));
}

TEST_F(EngineTest, Create_RefusesWhatThePopulationCantFill) {
  Select(11);
  EXPECT_THAT(Refusal(), HasSubstr("job.selection.clients: found 11, expected at most 10"));
  Select(4);
  scenario_.mutable_job()->mutable_selection()->set_min_ready(12);
  EXPECT_THAT(Refusal(), HasSubstr("job.selection.min_ready"));
  scenario_.mutable_job()->mutable_selection()->set_min_ready(1);
  scenario_.mutable_job()->mutable_round()->set_min_updates(11);
  EXPECT_FALSE(Make().ok());
}

TEST_F(EngineTest, Run_ATraceOfCohortsSaysWhoIsAsked) {
  const std::string path = MakeTestFolder("trace") + "/cohorts";
  ASSERT_TRUE(WriteFileAtomically(path, std::string_view("client-7,client-2\nclient-0\n")).ok());
  scenario_.mutable_behaviour()->set_cohorts(path);
  const Outcome outcome = Run();
  EXPECT_THAT(outcome.rounds[0].simulated().downloaded(), testing::ElementsAre(2, 7));
  EXPECT_THAT(outcome.rounds[1].simulated().downloaded(), testing::ElementsAre(0));
  EXPECT_EQ(outcome.rounds[2].selected(), 10) << "as the job selects";
  ASSERT_TRUE(WriteFileAtomically(path, std::string_view("client-10\n")).ok());
  EXPECT_THAT(Refusal(), HasSubstr("names client-10"));
}

TEST_F(EngineTest, Create_RefusesAFolderOfAnotherJob) {
  Run(1, folder_);
  scenario_.mutable_job()->set_seed(7);
  const absl::Status status = Make(1, folder_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("another job"));
}

}  // namespace
}  // namespace weft::simulation
