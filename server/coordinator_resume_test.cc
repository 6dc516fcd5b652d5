// Restarts: a coordinator killed at any point goes on and gives the bits of the undisturbed run.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/testing/coordinator_fixture.h"

namespace weft::server {
namespace {

using ::testing::HasSubstr;

class CoordinatorResumeTest : public CoordinatorFixture {
 protected:
  void AddAll() {
    for (const char* id : {"a", "b", "c"}) AddWith({.id = id, .train_examples = id[0] == 'a' ? 3u : 50u});
  }
  static proto::JobConfig ThreeClients() {
    proto::JobConfig config = SmallJob(2);
    config.mutable_selection()->set_min_ready(3);
    config.mutable_evaluation()->set_rows(10);
    return config;
  }
};

TEST_F(CoordinatorResumeTest, Open_KilledAfterAnyMessageGivesTheSameBits) {
  AddAll();
  const std::string job = Submit(ThreeClients());
  int messages = 0;
  while (WorkOnce()) ++messages;
  const std::string expected = HashOf(job, "last");
  const proto::JobStatus undisturbed = JobOf(job);
  ASSERT_EQ(undisturbed.state(), proto::FINISHED);
  ASSERT_GT(messages, 15);

  for (int killed_after = 0; killed_after <= messages; ++killed_after) {
    SCOPED_TRACE(killed_after);
    state_dir_ = base_dir_ + "/fresh-" + std::to_string(killed_after);
    Open();
    AddAll();
    Submit(ThreeClients());
    for (int i = 0; i < killed_after; ++i) WorkOnce();
    KillAndReopen();
    AddAll();
    Work();
    const proto::JobStatus resumed = JobOf(job);
    ASSERT_EQ(resumed.state(), proto::FINISHED) << resumed.message();
    ASSERT_EQ(resumed.rounds_size(), undisturbed.rounds_size());
    for (int i = 0; i < resumed.rounds_size(); ++i) {
      EXPECT_EQ(resumed.rounds(i).updates(), 3);
      EXPECT_EQ(resumed.rounds(i).examples(), undisturbed.rounds(i).examples());
      EXPECT_EQ(resumed.rounds(i).accuracy(), undisturbed.rounds(i).accuracy());
    }
    EXPECT_EQ(HashOf(job, "last"), expected);
  }
}

TEST_F(CoordinatorResumeTest, Open_MidRoundKeepsAcceptedUpdates) {
  AddAll();
  const std::string job = Submit(ThreeClients());
  const proto::Plan plan = TakePlan("a");
  EXPECT_EQ(Client("a").Carry(plan), absl::OkStatus());
  KillAndReopen();
  EXPECT_EQ(JobOf(job).phase(), "training");
  EXPECT_EQ(JobOf(job).phase_done(), 1);
  EXPECT_EQ(JobOf(job).phase_total(), 3);
  AddAll();
  Work({"a"});
  EXPECT_THAT(Client("a").received(), testing::ElementsAre("job"));
  Work();
  EXPECT_EQ(JobOf(job).state(), proto::FINISHED);
}

TEST_F(CoordinatorResumeTest, Open_KeepsTimesOfTheJob) {
  AddAll();
  const std::string job = Submit(ThreeClients());
  clock_.Advance(absl::Seconds(7));
  Work();
  const proto::JobStatus before = JobOf(job);
  clock_.Advance(absl::Hours(1));
  KillAndReopen();
  const proto::JobStatus after = JobOf(job);
  EXPECT_EQ(after.submitted_ms(), before.submitted_ms());
  EXPECT_EQ(after.started_ms(), before.started_ms());
  EXPECT_EQ(after.ended_ms(), before.ended_ms());
  EXPECT_EQ(after.message(), before.message());
  EXPECT_EQ(after.layout_hash(), before.layout_hash());
  EXPECT_EQ(after.best_round(), before.best_round());
  EXPECT_TRUE(coordinator_->Export(job, "best").ok());
}

TEST_F(CoordinatorResumeTest, Open_QueuedJobsStayQueued) {
  Submit(ThreeClients());
  const std::string second = Submit(SmallJob(1));
  KillAndReopen();
  EXPECT_THAT(JobOf(second).message(), HasSubstr("waits for job"));
  AddAll();
  Work();
  EXPECT_EQ(JobOf(second).state(), proto::FINISHED);
  EXPECT_EQ(Submit(SmallJob(1)), "small-3");
}

TEST_F(CoordinatorResumeTest, Open_SecondCoordinatorOnTheFolderIsRefused) {
  Coordinator::Options options;
  options.config = config_;
  options.clock = &clock_;
  const absl::Status status = Coordinator::Open(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("state_dir"));
}

TEST_F(CoordinatorResumeTest, Open_JobThatNoLongerFitsTheLimitsIsRefusedByName) {
  const std::string job = Submit(ThreeClients());
  coordinator_.reset();
  Coordinator::Options options;
  options.config = config_;
  options.config.set_max_adapter_bytes(16);
  options.clock = &clock_;
  const absl::Status status = Coordinator::Open(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("job " + job + " in the journal can't go on here"));
  EXPECT_THAT(status.message(), HasSubstr("max_adapter_bytes"));
}

}  // namespace
}  // namespace weft::server
