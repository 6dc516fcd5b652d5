// Jobs whose rule accounts for differential privacy.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  for (const char* figure : {"train_loss", "accuracy", "loss", "examples"}) {
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

TEST_F(CoordinatorPrivacyTest, Submit_ABudgetThatNotOneRoundFitsIsRefused) {
  proto::JobConfig config = PrivateJob(1);
  config.set_seed(kSpendsTooMuch);
  const absl::Status status = coordinator_->Submit(config, std::nullopt).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("one round spends epsilon 3, more than the job's budget of 2.5"));
}

}  // namespace
}  // namespace weft::server
