// Jobs whose rule accounts for differential privacy.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "server/testing/coordinator_fixture.h"
#include "server/testing/fake_rules.h"

namespace weft::server {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

class CoordinatorPrivacyTest : public CoordinatorFixture {
 protected:
  static proto::JobConfig PrivateJob(int64_t rounds) {
    proto::JobConfig config = SmallJob(rounds);
    config.mutable_aggregator()->set_name("fake_private");
    return config;
  }
};

TEST_F(CoordinatorPrivacyTest, Status_SaysWhatIsSpentOfWhatAndWhatNoNoiseProtects) {
  Add("a");
  Add("b");
  const std::string job = Submit(PrivateJob(2));
  EXPECT_EQ(JobOf(job).privacy().epsilon(), 0);
  Work();
  const proto::JobStatus status = JobOf(job);
  EXPECT_EQ(status.message(), "all 2 rounds are done");
  EXPECT_EQ(status.rounds(0).epsilon(), 1);
  EXPECT_EQ(status.rounds(1).epsilon(), 2);
  EXPECT_EQ(status.privacy().epsilon(), 2);
  EXPECT_EQ(status.privacy().epsilon_budget(), kFakeBudget);
  EXPECT_EQ(status.privacy().delta(), kFakeDelta);
  EXPECT_EQ(status.privacy().noise_multiplier(), 1.5);
  EXPECT_EQ(status.privacy().sampling_rate(), 0.5);
  for (const char* figure : {"train_loss", "accuracy", "loss", "f1", "examples"}) {
    EXPECT_THAT(status.privacy().unprotected(), Contains(figure));
  }
}

TEST_F(CoordinatorPrivacyTest, Status_AJobWithoutPrivacySaysNothing) {
  Add("a");
  Add("b");
  const std::string job = Submit(SmallJob(1));
  Work();
  EXPECT_FALSE(JobOf(job).has_privacy());
  EXPECT_FALSE(JobOf(job).rounds(0).has_epsilon());
}

TEST_F(CoordinatorPrivacyTest, Job_StopsBeforeTheRoundThatWouldPassTheBudget) {
  Add("a");
  Add("b");
  const std::string job = Submit(PrivateJob(100));
  EXPECT_EQ(JobOf(job).rounds_total(), 2);
  Work();
  const proto::JobStatus status = JobOf(job);
  EXPECT_EQ(status.state(), proto::FINISHED);
  EXPECT_THAT(status.message(), HasSubstr("privacy budget spent"));
  EXPECT_EQ(status.round(), 2);
  EXPECT_LE(status.privacy().epsilon(), kFakeBudget);
  EXPECT_TRUE(status.rounds(1).has_accuracy()) << "the last round is evaluated";
}

TEST_F(CoordinatorPrivacyTest, Open_ARestartForgetsNothingThatWasSpent) {
  Add("a");
  Add("b");
  const std::string job = Submit(PrivateJob(100));
  while (JobOf(job).round() < 1) ASSERT_TRUE(WorkOnce());
  KillAndReopen();
  EXPECT_EQ(JobOf(job).privacy().epsilon(), 1);
  Add("a");
  Add("b");
  Work();
  EXPECT_EQ(JobOf(job).round(), 2);
  EXPECT_THAT(JobOf(job).message(), HasSubstr("privacy budget spent"));
  KillAndReopen();
  EXPECT_EQ(JobOf(job).privacy().epsilon(), 2) << "of an ended job";
}

TEST_F(CoordinatorPrivacyTest, Job_RoundsThatDrawNobodyCountToo) {
  proto::JobConfig config = PrivateJob(2);
  config.mutable_selection()->set_rule("poisson");
  config.mutable_selection()->set_rate(1e-12);
  config.mutable_round()->set_min_updates(0);
  config.mutable_evaluation()->set_every(0);
  Add("a");
  Add("b");
  const std::string job = Submit(config);
  Work();
  EXPECT_EQ(JobOf(job).state(), proto::FINISHED) << JobOf(job).message();
  ASSERT_EQ(JobOf(job).rounds_size(), 2);
  EXPECT_EQ(JobOf(job).rounds(1).selected(), 0);
  EXPECT_EQ(JobOf(job).rounds(1).updates(), 0);
  EXPECT_EQ(JobOf(job).privacy().epsilon(), 2);
  EXPECT_EQ(HashOf(job, "last"), HashOf(job, "0"));
}

TEST_F(CoordinatorPrivacyTest, Selection_IsNotThatOfTheSeedThatEverybodyKnows) {
  proto::JobConfig config = PrivateJob(1);
  config.mutable_selection()->set_rule("poisson");
  config.mutable_selection()->set_rate(0.5);
  config.mutable_round()->set_min_updates(0);
  std::set<std::vector<std::string>> cohorts;
  // Sixteen clients, five draws: all alike with probability 2^-64.
  for (int draw = 0; draw < 5; ++draw) {
    state_dir_ = base_dir_ + "/draw-" + std::to_string(draw);
    Open();
    config.mutable_selection()->set_min_ready(16);
    for (int i = 0; i < 16; ++i) Add("client-" + std::to_string(i));
    Submit(config);
    AnswerOffers();
    std::vector<std::string> cohort;
    for (auto& [id, client] : clients_) {
      const std::vector<std::string> kinds = client->received();
      if (std::find(kinds.begin(), kinds.end(), "train") != kinds.end()) cohort.push_back(id);
    }
    cohorts.insert(cohort);
  }
  EXPECT_GT(cohorts.size(), 1u);
}

TEST_F(CoordinatorPrivacyTest, Submit_ABudgetThatNotOneRoundFitsIsRefused) {
  proto::JobConfig config = PrivateJob(1);
  config.set_seed(kSpendsTooMuch);
  const absl::Status status = coordinator_->Submit(config, std::nullopt).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("one round spends epsilon 3, more than the job's budget of 2.5"));
}

}  // namespace
}  // namespace weft::server
