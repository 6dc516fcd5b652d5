// Whole jobs: from submit to export.

#include "server/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <thread>

#include "server/testing/coordinator_fixture.h"

namespace weft::server {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using CoordinatorTest = CoordinatorFixture;

TEST_F(CoordinatorTest, Job_RunsFromSubmitToExport) {
  Add("a");
  Add("b");
  const std::string job = Submit(SmallJob(3));
  EXPECT_EQ(job, "small-1");
  Client("a").options().correct = 9;
  Work();
  const proto::JobStatus status = JobOf(job);
  EXPECT_EQ(status.state(), proto::FINISHED);
  EXPECT_EQ(status.message(), "all 3 rounds are done");
  ASSERT_EQ(status.rounds_size(), 3);
  EXPECT_EQ(status.rounds(2).updates(), 2);
  EXPECT_EQ(status.rounds(2).selected(), 2);
  EXPECT_EQ(status.rounds(2).examples(), 20u);
  EXPECT_DOUBLE_EQ(status.rounds(2).accuracy(), 14.0 / 40);
  EXPECT_DOUBLE_EQ(status.rounds(2).loss(), 0.5);
  EXPECT_EQ(status.best_round(), 1);
  EXPECT_TRUE(status.config().base().config_json().empty());
  const uint64_t bytes = status.adapter_parameters() * 4;
  EXPECT_EQ(status.rounds(0).bytes_up(), 2 * bytes);
  EXPECT_EQ(status.rounds(0).bytes_down(), 2 * bytes);
  EXPECT_EQ(status.bytes_up(), 6 * bytes);
  EXPECT_EQ(ClientOf("a").bytes_up(), 3 * bytes);
  EXPECT_EQ(ClientOf("a").tokens_per_second(), 50);
  EXPECT_EQ(Client("a").last_reason(), "all 3 rounds are done");
  EXPECT_EQ(Client("a").last_error(), absl::OkStatus());

  const auto best = coordinator_->Export(job, "best");
  ASSERT_TRUE(best.ok()) << best.status();
  EXPECT_EQ(best->info.round(), 1);
  EXPECT_DOUBLE_EQ(best->info.accuracy(), 14.0 / 40);
  EXPECT_FALSE(best->info.config().base().config_json().empty());
  EXPECT_EQ(coordinator_->Export(job, "last")->info.round(), 3);
  EXPECT_NE(HashOf(job, "0"), HashOf(job, "best"));
  const absl::Status retired = coordinator_->Export(job, "2").status();
  EXPECT_EQ(retired.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(retired.message(), HasSubstr("kept are 0, 1, 3"));
}

TEST_F(CoordinatorTest, Job_SameBitsInAnyOrderOfArrival) {
  proto::JobConfig config = SmallJob(3);
  config.mutable_selection()->set_min_ready(3);
  std::vector<std::string> hashes;
  for (const bool reversed : {false, true}) {
    for (const char* id : {"a", "b", "c"}) AddWith({.id = id, .train_examples = id[0] == 'b' ? 1000u : 7u});
    const std::string job = Submit(config);
    std::vector<FakeClient*> order = {&Client("a"), &Client("b"), &Client("c")};
    if (reversed) std::swap(order[0], order[2]);
    WorkAll(order);
    hashes.push_back(HashOf(job, "last"));
    state_dir_ += "-again";
    Open();
  }
  EXPECT_EQ(hashes[0], hashes[1]);
}

TEST_F(CoordinatorTest, Plan_CarriesDecayedRateSeedAndRoles) {
  Add("a");
  Add("b");
  proto::JobConfig config = SmallJob(3);
  config.mutable_training()->set_learning_rate(0.1);
  config.mutable_training()->set_learning_rate_decay(0.5);
  config.mutable_training()->set_compute("bf16");
  Submit(config);
  const proto::Plan first = TakePlan("a");
  const proto::Plan other = TakePlan("b");
  EXPECT_EQ(first.round(), 1);
  EXPECT_DOUBLE_EQ(first.training().learning_rate(), 0.1);
  EXPECT_EQ(first.training().learning_rate_decay(), 1);
  EXPECT_EQ(first.training().compute(), "bf16");
  EXPECT_NE(first.seed(), other.seed());
  EXPECT_EQ(first.progress_interval_ms(), 1000u);
  EXPECT_THAT(first.roles_sent(), Contains("head"));
  EXPECT_EQ(Client("a").Carry(first), absl::OkStatus());
  EXPECT_EQ(Client("b").Carry(other), absl::OkStatus());
  for (const char* id : {"a", "b"}) {
    const proto::EvaluationPlan evaluation = TakeEvaluation(id);
    EXPECT_EQ(evaluation.round(), 1);
    EXPECT_EQ(evaluation.split(), "test");
    EXPECT_EQ(evaluation.max_length(), config.training().max_length());
    EXPECT_EQ(evaluation.compute(), "bf16");
    EXPECT_EQ(Client(id).Evaluate(evaluation), absl::OkStatus());
  }
  const proto::Plan second = TakePlan("a");
  EXPECT_EQ(second.round(), 2);
  EXPECT_DOUBLE_EQ(second.training().learning_rate(), 0.05);
  EXPECT_NE(second.seed(), first.seed());
}

TEST_F(CoordinatorTest, Stop_EndsTheRunningJobAndStartsTheNext) {
  Add("a");
  Add("b");
  const std::string first = Submit(SmallJob(100));
  const std::string second = Submit(SmallJob(1));
  EXPECT_THAT(JobOf(second).message(), HasSubstr("waits for job " + first));
  for (int step = 0; step < 20; ++step) WorkOnce();
  const auto stopped = coordinator_->Stop(first);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_EQ(stopped->state(), proto::STOPPED);
  EXPECT_GT(stopped->round(), 0);
  EXPECT_TRUE(coordinator_->Export(first, "last").ok());
  Work();
  EXPECT_EQ(JobOf(second).state(), proto::FINISHED);
  EXPECT_EQ(coordinator_->Stop(first).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(coordinator_->Stop("nope").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CoordinatorTest, Stop_EndsAQueuedJob) {
  const std::string first = Submit(SmallJob(1));
  const std::string second = Submit(SmallJob(1));
  EXPECT_TRUE(coordinator_->Stop(second).ok());
  EXPECT_EQ(JobOf(second).state(), proto::STOPPED);
  Add("a");
  Add("b");
  Work();
  EXPECT_EQ(JobOf(first).state(), proto::FINISHED);
  EXPECT_EQ(JobOf(second).round(), 0);
}

TEST_F(CoordinatorTest, StopRule_TargetAccuracy) {
  Add("a").options().correct = 20;
  Add("b").options().correct = 20;
  proto::JobConfig config = SmallJob(100);
  config.mutable_stop()->set_target_accuracy(0.9);
  const std::string job = Submit(config);
  Work();
  EXPECT_EQ(JobOf(job).state(), proto::FINISHED);
  EXPECT_EQ(JobOf(job).round(), 1);
  EXPECT_THAT(JobOf(job).message(), HasSubstr("reached the target"));
}

TEST_F(CoordinatorTest, StopRule_Patience) {
  Add("a");
  Add("b");
  proto::JobConfig config = SmallJob(100);
  config.mutable_stop()->set_patience(3);
  const std::string job = Submit(config);
  Work();
  EXPECT_EQ(JobOf(job).round(), 4);
  EXPECT_EQ(JobOf(job).best_round(), 1);
}

TEST_F(CoordinatorTest, StopRule_Time) {
  Add("a");
  Add("b");
  proto::JobConfig config = SmallJob(100);
  config.mutable_stop()->mutable_time()->set_seconds(30);
  const std::string job = Submit(config);
  for (int step = 0; step < 10; ++step) WorkOnce();
  After(absl::Seconds(31));
  Work();
  EXPECT_EQ(JobOf(job).state(), proto::FINISHED);
  EXPECT_THAT(JobOf(job).message(), HasSubstr("time limit"));
  EXPECT_LT(JobOf(job).round(), 100);
}

TEST_F(CoordinatorTest, WarmStart_BeginsFromTheGivenValues) {
  Add("a");
  Add("b");
  const std::string first = Submit(SmallJob(1));
  Work();
  const auto exported = coordinator_->Export(first, "last");
  proto::JobConfig config = SmallJob(1);
  config.set_warm_start("some/folder");
  const std::string second = Submit(config, exported->adapter->Clone());
  EXPECT_EQ(HashOf(second, "0"), HashOf(first, "last"));
  Work();
  EXPECT_EQ(JobOf(second).state(), proto::FINISHED);
}

TEST_F(CoordinatorTest, WarmStart_BadOnesAreRefused) {
  proto::JobConfig config = SmallJob(1);
  config.set_warm_start("some/folder");
  EXPECT_THAT(coordinator_->Submit(config, std::nullopt).status().message(), HasSubstr("tensors were not sent"));
  const auto other = *Layout::Create({TensorSpec{"t", "head", {4}}});
  EXPECT_THAT(coordinator_->Submit(config, Adapter(other)).status().message(), HasSubstr("the warm start has layout"));
  Adapter infinite(*coordinator_->LayoutFor(config));
  infinite.values()[3] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(coordinator_->Submit(config, std::move(infinite)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(coordinator_->GetStatus("")->jobs_size(), 0);
}

TEST_F(CoordinatorTest, Submit_RefusedJobIsNotQueued) {
  EXPECT_EQ(coordinator_->Submit(proto::JobConfig(), std::nullopt).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(coordinator_->LayoutFor(proto::JobConfig()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(coordinator_->GetStatus("")->jobs_size(), 0);
}

TEST_F(CoordinatorTest, Job_FailsAfterTooManyAbandonedAttempts) {
  FakeClient& a = Add("a");
  FakeClient& b = Add("b");
  proto::JobConfig config = SmallJob(1);
  config.mutable_round()->set_max_attempts(2);
  const std::string job = Submit(config);
  for (int attempt = 1; attempt <= 2; ++attempt) {
    for (FakeClient* client : {&a, &b}) {
      const proto::Plan plan = TakePlan(client->options().id);
      EXPECT_EQ(plan.round(), 1) << attempt;
      proto::ClientMessage failure;
      failure.mutable_failure()->set_job_id(job);
      failure.mutable_failure()->set_round(1);
      failure.mutable_failure()->set_reason("out of memory");
      EXPECT_EQ(client->Say(failure), absl::OkStatus());
    }
    After(absl::Seconds(1));
  }
  EXPECT_EQ(JobOf(job).state(), proto::FAILED);
  EXPECT_THAT(JobOf(job).message(), HasSubstr("a failed: out of memory"));
  EXPECT_TRUE(coordinator_->Export(job, "last").ok());
}

TEST_F(CoordinatorTest, Export_UnknownJobOrWordIsRefused) {
  const std::string job = Submit(SmallJob(1));
  EXPECT_EQ(coordinator_->Export("nope", "best").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(coordinator_->Export(job, "worst").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(coordinator_->Export(job, "7").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(coordinator_->Export(job, "best")->info.round(), 0);
}

TEST_F(CoordinatorTest, GetStatus_UnknownJobIsNotFound) {
  EXPECT_EQ(coordinator_->GetStatus("nope").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(coordinator_->GetStatus("")->jobs(), IsEmpty());
}

TEST_F(CoordinatorTest, WaitForChange_ReturnsOnceSomethingChanged) {
  const uint64_t seen = coordinator_->status_version();
  EXPECT_EQ(coordinator_->WaitForChange(seen, absl::Milliseconds(1)), seen);
  std::thread submitter([&] { Submit(SmallJob(1)); });
  EXPECT_GT(coordinator_->WaitForChange(seen, absl::Seconds(60)), seen);
  submitter.join();
}

TEST_F(CoordinatorTest, Shutdown_ClosesChannelsAndRefusesWork) {
  FakeClient& a = Add("a");
  Submit(SmallJob(1));
  std::thread watcher([&] { coordinator_->WaitForChange(coordinator_->status_version(), absl::Hours(1)); });
  coordinator_->Shutdown();
  watcher.join();
  coordinator_->Shutdown();
  EXPECT_EQ(a.closed().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(a.Join().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(coordinator_->Submit(SmallJob(1), std::nullopt).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(coordinator_->Download({}).status().code(), absl::StatusCode::kUnavailable);
  a.Leave();
  coordinator_->Tick();
}

// With the coordinator's own thread and real time: clients in threads of their own.
TEST_F(CoordinatorTest, Job_RunsWithClientsInThreads) {
  coordinator_.reset();
  const RealClock clock;
  Coordinator::Options options;
  options.config = config_;
  options.clock = &clock;
  options.tick_interval = absl::Milliseconds(1);
  coordinator_ = *Coordinator::Open(options);
  for (const char* id : {"a", "b", "c", "d"}) Add(id);
  proto::JobConfig config = SmallJob(5);
  config.mutable_selection()->set_min_ready(4);
  const std::string job = Submit(config);
  std::vector<std::thread> threads;
  for (auto& [id, client] : clients_) {
    threads.emplace_back([this, client = client.get(), &job] {
      for (uint64_t seen = 0; JobOf(job).state() <= proto::RUNNING;) {
        client->Work();
        seen = coordinator_->WaitForChange(seen, absl::Milliseconds(10));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(JobOf(job).state(), proto::FINISHED) << JobOf(job).message();
  EXPECT_EQ(JobOf(job).rounds_size(), 5);
}

}  // namespace
}  // namespace weft::server
