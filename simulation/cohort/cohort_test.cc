#include "simulation/cohort/cohort.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "adapters/forms/form.h"
#include "client/testing/fake_trainer.h"
#include "client/testing/test_folders.h"
#include "common/file.h"
#include "proto/schema.h"
#include "server/round/plan.h"
#include "server/submit_check.h"
#include "simulation/ranks/testing/recording_link.h"

namespace weft::simulation {
namespace {

using ::testing::HasSubstr;

class CohortTest : public testing::Test {
 protected:
  CohortTest() {
    const std::string base = MakeTestFolder("base"), data = MakeTestFolder("data");
    WriteTestBase(base);
    WriteTestData(data);
    trainer_options_.base = base;
    data_.emplace(*DataFolder::Open(data));
    limits_.set_state_dir("none");
    proto::ApplyDefaults(&limits_);
    config_.set_name("job");
    config_.mutable_training()->set_max_length(16);
    config_.mutable_base()->set_config_json(*ReadFile(base + "/config.json"));
    for (const std::string& label : data_->labels()) config_.mutable_task()->add_labels(label);
    auto& form = *config_.mutable_adapter()->mutable_config()->mutable_fields();
    form["rank"].set_number_value(2);
    for (const char* module : {"query", "value"}) {
      form["target_modules"].mutable_list_value()->add_values()->set_string_value(module);
    }
  }

  // After config_ and trainer_options_ are as wanted.
  void Open() {
    trainer_ = *FakeTrainer::Create(trainer_options_);
    config_.mutable_base()->set_hash(trainer_->base_hash());
    auto job = server::CheckJob(config_, limits_);
    ASSERT_TRUE(job.ok()) << job.status();
    job_ = *std::move(job);
    proto::JobOffer offer;
    offer.set_job_id("job");
    *offer.mutable_task() = job_.config.task();
    *offer.mutable_adapter() = job_.config.adapter();
    layout_ = *trainer_->PrepareJob(offer);
    auto initial = MakeInitialAdapter(job_.config.adapter(), job_.base, job_.layout, 1);
    ASSERT_TRUE(initial.ok()) << initial.status();
    state_ = std::make_shared<const Adapter>(*job_.rule->InitialState(job_.config, *std::move(initial)));
  }

  std::unique_ptr<Cohort> Make(int threads, double tokens_per_pass, std::vector<CohortClient> clients) {
    Cohort::Options options;
    options.training.job = {.adapter = job_.config.adapter(), .layout = layout_};
    server::Fold::Options fold{.job = &job_, .state = state_, .plan = PlanOf(""), .updates = 8, .config = &limits_};
    options.training.fold = *server::Fold::Create(fold);
    options.training.broadcast = state_;
    options.training.plan_before_rule = [this](const std::string& client) { return PlanOf(client); };
    options.training.trainer = trainer_.get();
    options.training.rows = [this](int64_t client, bool flip) -> absl::StatusOr<std::unique_ptr<DataShard>> {
      if (flip) flipped_ = client;
      if (client == without_rows_) return absl::InvalidArgumentError("no rows");
      return data_->split("train")->Select({0, static_cast<uint32_t>(client % 10)});
    };
    options.training.kept = [](int64_t) { return std::make_shared<const KeptState>(); };
    options.threads = threads;
    options.tokens_per_pass = tokens_per_pass;
    options.most_in_flight = most_in_flight_;
    options.workers = workers_;
    return std::make_unique<Cohort>(std::move(options), std::move(clients));
  }
  proto::Plan PlanOf(const std::string& client) const { return server::PlanBeforeRule(job_.config, "job", 1, client); }
  static std::vector<CohortClient> Clients(int64_t count) {
    std::vector<CohortClient> clients;
    for (int64_t i = 0; i < count; ++i) {
      clients.push_back({.index = i, .name = absl::StrCat("client-", i), .tokens = 6});
    }
    return clients;
  }
  static absl::StatusOr<SentUpdate> Take(Cohort& cohort, int64_t client) {
    absl::StatusOr<absl::StatusOr<SentUpdate>> taken = cohort.Take(client);
    if (!taken.ok()) return taken.status();
    return *std::move(taken);
  }
  static std::string Bytes(const SentUpdate& update) {
    const auto bytes = update.tensors->bytes();
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

  FakeTrainer::Options trainer_options_;
  std::unique_ptr<FakeTrainer> trainer_;
  std::optional<DataFolder> data_;
  proto::CoordinatorConfig limits_;
  proto::JobConfig config_;
  server::CheckedJob job_;
  std::shared_ptr<const Layout> layout_;
  std::shared_ptr<const Adapter> state_;
  std::atomic<int64_t> flipped_ = -1;
  int64_t without_rows_ = -1;
  int64_t most_in_flight_ = 100;
  Workers* workers_ = nullptr;
};

TEST_F(CohortTest, Take_GivesTheSameBitsWhateverTheThreads) {
  Open();
  std::vector<std::string> sent;
  for (const int threads : {1, 3}) {
    const auto cohort = Make(threads, 12, Clients(7));
    EXPECT_EQ(cohort->groups(), 4);
    for (int64_t i = 0; i < 7; ++i) {
      const auto update = Take(*cohort, i);
      ASSERT_TRUE(update.ok()) << update.status();
      EXPECT_EQ(update->facts.client_id(), absl::StrCat("client-", i));
      EXPECT_EQ(update->facts.examples(), 2);
      sent.push_back(Bytes(*update));
    }
  }
  for (size_t i = 0; i < 7; ++i) EXPECT_EQ(sent[i], sent[i + 7]) << i;
  EXPECT_NE(sent[0], sent[1]);
}

TEST_F(CohortTest, Take_IsWhatADaemonSends) {
  Open();
  const auto update = Take(*Make(1, 100, Clients(3)), 1);
  ASSERT_TRUE(update.ok()) << update.status();
  proto::Plan plan = PlanOf("client-1");
  server::Fold::Options fold{.job = &job_, .state = state_, .plan = plan, .updates = 8, .config = &limits_};
  plan = *(*server::Fold::Create(fold))->PlanFor(plan, 0);
  auto local = LocalUpdate::Begin({.adapter = job_.config.adapter(), .layout = layout_}, plan, state_,
                                  std::make_shared<const KeptState>());
  ASSERT_TRUE(local.ok()) << local.status();
  const auto rows = data_->split("train")->Select({0, 1});
  const CohortMember member = local->Member("client-1", rows->get());
  auto trained = trainer_->Train(plan, {&member, 1}, [](int64_t, int64_t) { return true; });
  ASSERT_TRUE(trained.ok() && trained->front().ok());
  const auto result = std::move(*local).End("client-1", 2, *trained->front());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(std::as_bytes(result->tensors.bytes()).size(), update->bytes);
  EXPECT_TRUE(std::equal(result->tensors.bytes().begin(), result->tensors.bytes().end(),
                         update->tensors->bytes().begin(), update->tensors->bytes().end()));
}

TEST_F(CohortTest, Take_TrainsAGroupOnlyWhenItIsAskedFor) {
  Open();
  const auto cohort = Make(1, 6, Clients(20));  // a client a group
  ASSERT_TRUE(Take(*cohort, 0).ok());
  EXPECT_EQ(trainer_->trained(), 4) << "the window of one thread";
  ASSERT_TRUE(Take(*cohort, 3).ok());
  EXPECT_EQ(trainer_->trained(), 4);
  ASSERT_TRUE(Take(*cohort, 17).ok());
  EXPECT_EQ(trainer_->trained(), 7);
}

TEST_F(CohortTest, Take_GivesEachUpdateOnce) {
  Open();
  const auto cohort = Make(1, 100, Clients(2));
  ASSERT_TRUE(Take(*cohort, 0).ok());
  EXPECT_EQ(Take(*cohort, 0).status().code(), absl::StatusCode::kInternal);
}

TEST_F(CohortTest, Take_AttacksChangeTheUpdateOfTheHostileClientAlone) {
  Open();
  const auto honest = Make(1, 100, Clients(3));
  const Adapter before = Take(*honest, 1)->tensors->Decode();
  const std::string other = Bytes(*Take(*honest, 2));
  proto::HostileConfig hostile;
  hostile.set_factor(3);
  const auto attacked = [&](const char* attack) {
    hostile.set_attack(attack);
    std::vector<CohortClient> clients = Clients(3);
    clients[1].hostile = &hostile;
    const auto cohort = Make(1, 100, std::move(clients));
    auto result = Take(*cohort, 1);
    EXPECT_EQ(Bytes(*Take(*cohort, 2)), other);
    return result;
  };
  const Adapter scaled = attacked("scale")->tensors->Decode(), flipped = attacked("sign_flip")->tensors->Decode();
  for (size_t i = 0; i < before.values().size(); ++i) {
    EXPECT_NEAR(scaled.values()[i], 3 * before.values()[i], 1e-6);
    EXPECT_NEAR(flipped.values()[i], -3 * before.values()[i], 1e-6);
  }
  const Adapter noise = attacked("noise")->tensors->Decode();
  double square = 0;
  for (const float value : noise.values()) square += static_cast<double>(value) * value;
  EXPECT_NEAR(std::sqrt(square / static_cast<double>(noise.values().size())), 3, 1.2);
  const auto nan = attacked("nan");
  EXPECT_EQ(nan.status().code(), absl::StatusCode::kInvalidArgument) << nan.status();
  ASSERT_EQ(flipped_, -1);
  EXPECT_EQ(Bytes(*attacked("label_flip")).size(), other.size());
  EXPECT_EQ(flipped_, 1) << "its rows come with flipped labels";
}

TEST_F(CohortTest, Take_AFailureOfTrainingCostsThatClientAlone) {
  trainer_options_.train_status = absl::OutOfRangeError("the loss is not a finite number");
  Open();
  const auto cohort = Make(2, 6, Clients(3));
  for (int64_t i = 0; i < 3; ++i) {
    const auto update = Take(*cohort, i);
    EXPECT_EQ(update.status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(update.status().message(), HasSubstr("not a finite"));
  }
}

TEST_F(CohortTest, Take_AFailureAroundTrainingIsNotThatOfAClient) {
  Open();
  without_rows_ = 1;
  const auto cohort = Make(2, 6, Clients(3));
  EXPECT_EQ(cohort->Take(0).status().code(), absl::StatusCode::kInvalidArgument) << "the call itself";
}

TEST_F(CohortTest, Take_NoMoreInFlightThanAllowed) {
  Open();
  most_in_flight_ = 3;
  const auto cohort = Make(1, 12, Clients(20));  // two clients a group
  ASSERT_TRUE(Take(*cohort, 0).ok());
  EXPECT_EQ(trainer_->trained(), 2);
  most_in_flight_ = 1;
  ASSERT_TRUE(Take(*Make(1, 12, Clients(20)), 0).ok());
  EXPECT_EQ(trainer_->trained(), 4) << "a group in any case";
}

// Answers that the training of every client has failed.
class FailingRanks final : public RecordingLink {
 public:
  std::vector<int64_t> Asked(int rank) const {
    std::vector<int64_t> clients;
    for (const Command& command : sent[rank]) {
      for (const TrainGroups::Group& group : command.train().groups()) {
        for (const TrainGroups::Client& client : group.clients()) clients.push_back(client.index());
      }
    }
    return clients;
  }
  absl::StatusOr<std::string> Receive(int from) override {
    ++answers[from];
    Answer answer;
    answer.set_code(from == fails ? static_cast<int>(absl::StatusCode::kInvalidArgument) : 0);
    for (size_t i = 0; i < Asked(from).size(); ++i) {
      answer.add_trained()->set_code(static_cast<int>(absl::StatusCode::kOutOfRange));
    }
    return answer.SerializeAsString();
  }
  int answers[3] = {};
  int fails = 0;
};

TEST_F(CohortTest, Take_DealsGroupsToRanksByTheirWork) {
  Open();
  std::vector<CohortClient> clients = Clients(6);
  const double work[] = {1, 10, 1, 1, 6, 1};
  for (size_t i = 0; i < clients.size(); ++i) clients[i].work = work[i];
  FailingRanks link;
  Workers workers(&link);
  workers_ = &workers;
  const auto cohort = Make(1, 6, std::move(clients));
  EXPECT_EQ(Take(*cohort, 0).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(Take(*cohort, 1).ok()) << "the largest stays here";
  EXPECT_THAT(link.Asked(1), testing::ElementsAre(4));
  EXPECT_THAT(link.Asked(2), testing::ElementsAre(0, 2, 3, 5));
  EXPECT_EQ(trainer_->trained(), 1);
}

TEST_F(CohortTest, Take_HearsEveryRankOutBeforeItFails) {
  Open();
  FailingRanks link;
  link.fails = 1;
  Workers workers(&link);
  workers_ = &workers;
  const auto cohort = Make(1, 6, Clients(6));
  EXPECT_EQ(cohort->Take(0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(link.answers[1], 1);
  EXPECT_EQ(link.answers[2], 1) << "it would take no other command";
}

TEST_F(CohortTest, Take_RanksAndComponentsTravelAsPlanned) {
  config_.mutable_aggregator()->set_name("hetlora");
  Open();
  std::vector<CohortClient> clients = Clients(2);
  clients[1].max_rank = 1;
  const auto cohort = Make(1, 100, std::move(clients));
  const auto whole = Take(*cohort, 0), part = Take(*cohort, 1);
  ASSERT_TRUE(whole.ok() && part.ok()) << whole.status() << part.status();
  EXPECT_EQ(part->facts.rank(), 1);
  EXPECT_LT(part->bytes, whole->bytes);
}

}  // namespace
}  // namespace weft::simulation
