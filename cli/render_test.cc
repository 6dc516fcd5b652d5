#include "cli/render.h"

#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/match.h"

namespace weft::cli {
namespace {

proto::JobStatus TestJob() {
  proto::JobStatus job;
  job.set_job_id("job-1");
  job.set_name("demo");
  job.set_state(proto::RUNNING);
  job.set_round(2);
  job.set_rounds_total(8);
  job.set_phase("training");
  job.set_phase_done(1);
  job.set_phase_total(4);
  job.set_best_round(1);
  job.set_best_accuracy(0.5);
  job.set_bytes_up(1'234'567);
  job.set_bytes_down(999);
  job.set_seconds_left(125);
  for (int round = 1; round <= 2; ++round) {
    proto::RoundStatus& status = *job.add_rounds();
    status.set_round(round);
    status.set_selected(4);
    status.set_updates(3);
    status.set_train_loss(2.5);
  }
  job.mutable_rounds(0)->set_accuracy(0.5);
  return job;
}

TEST(RenderTest, HumanBytes_Units) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(1000), "1.0 kB");
  EXPECT_EQ(HumanBytes(999'960), "1.0 MB");
  EXPECT_EQ(HumanBytes(1'234'567), "1.2 MB");
  EXPECT_EQ(HumanBytes(std::numeric_limits<uint64_t>::max()), "18446.7 PB");
}

TEST(RenderTest, HumanSeconds_Units) {
  EXPECT_EQ(HumanSeconds(0), "0s");
  EXPECT_EQ(HumanSeconds(59.6), "1m00s");
  EXPECT_EQ(HumanSeconds(125), "2m05s");
  EXPECT_EQ(HumanSeconds(7260), "2h01m");
  EXPECT_EQ(HumanSeconds(-1), "unknown");
  EXPECT_EQ(HumanSeconds(std::numeric_limits<double>::quiet_NaN()), "unknown");
}

TEST(RenderTest, JobLine_SaysWhereTheJobIs) {
  EXPECT_EQ(JobLine(TestJob()),
            "job-1 running round 2/8, training 1/4, accuracy 0.5000, 1.2 MB up, 999 B down, 2m05s left");
}

TEST(RenderTest, JobLine_EndedJob) {
  proto::JobStatus job = TestJob();
  job.set_state(proto::FAILED);
  job.clear_phase();
  job.set_message("round 3 was abandoned 10 times");
  EXPECT_EQ(JobLine(job),
            "job-1 failed round 2/8, accuracy 0.5000, 1.2 MB up, 999 B down: round 3 was abandoned 10 times");
}

TEST(RenderTest, JobText_ShowsTheLatestRounds) {
  const std::string text = JobText(TestJob(), 1);
  EXPECT_TRUE(absl::StrContains(text, "[#####...............] 2/8  training 1/4")) << text;
  EXPECT_TRUE(absl::StrContains(text, "accuracy  0.5000 (best 0.5000 in round 1)")) << text;
  EXPECT_TRUE(absl::StrContains(text, "time left 2m05s")) << text;
  EXPECT_TRUE(absl::StrContains(text, "\n2      3/4")) << text;
  EXPECT_FALSE(absl::StrContains(text, "\n1      3/4")) << text;
}

TEST(RenderTest, JobText_SaysWhatPrivacyIsSpentAndWhatIsShownWithoutNoise) {
  proto::JobStatus job = TestJob();
  EXPECT_FALSE(absl::StrContains(JobText(job, 2), "EPSILON"));
  proto::PrivacyStatus& privacy = *job.mutable_privacy();
  privacy.set_epsilon(1.70996);
  privacy.set_epsilon_budget(8);
  privacy.set_delta(1e-5);
  privacy.set_noise_multiplier(1.1);
  privacy.set_sampling_rate(0.1);
  privacy.add_unprotected("train_loss");
  privacy.add_unprotected("accuracy");
  job.mutable_rounds(0)->set_epsilon(1.25);
  job.mutable_rounds(1)->set_epsilon(1.70996);
  const std::string text = JobText(job, 2);
  EXPECT_TRUE(absl::StrContains(
      text, "privacy   epsilon 1.7100 of 8, delta 1e-05, noise multiplier 1.1, sampling rate 0.1 claimed\n"))
      << text;
  EXPECT_TRUE(absl::StrContains(text, "          shown without noise: train_loss, accuracy\n")) << text;
  EXPECT_TRUE(absl::StrContains(text, "  EPSILON\n")) << text;
  EXPECT_TRUE(absl::StrContains(text, "  1.2500\n")) << text;
  EXPECT_TRUE(absl::StrContains(JobLine(job), "999 B down, epsilon 1.7100 of 8, 2m05s left")) << JobLine(job);
  privacy.set_sampling_rate(1);
  EXPECT_TRUE(absl::StrContains(JobText(job, 2), "no amplification by sampling claimed")) << JobText(job, 2);
}

TEST(RenderTest, JobText_F1OfAClassification) {
  proto::JobStatus job = TestJob();
  EXPECT_FALSE(absl::StrContains(JobText(job, 2), "F1"));
  job.mutable_rounds(0)->set_f1(0.4375);
  const std::string text = JobText(job, 2);
  EXPECT_TRUE(absl::StrContains(text, "accuracy  0.5000 (best 0.5000 in round 1), F1 0.4375\n")) << text;
  EXPECT_TRUE(absl::StrContains(text, "TRAIN LOSS  ACCURACY  F1      LOSS  SECONDS")) << text;
  EXPECT_TRUE(absl::StrContains(text, "2.5000      0.5000    0.4375  -     0.0")) << text;
  EXPECT_TRUE(absl::StrContains(text, "2.5000      -         -       -     0.0")) << text;
  EXPECT_TRUE(absl::StrContains(JobLine(job), ", accuracy 0.5000, F1 0.4375, 1.2 MB up")) << JobLine(job);
}

TEST(RenderTest, JobText_PerplexityOfALanguageModel) {
  proto::JobStatus job = TestJob();
  EXPECT_FALSE(absl::StrContains(JobText(job, 2), "PERPLEXITY"));
  job.mutable_rounds(0)->set_loss(2.5);
  job.mutable_rounds(0)->set_perplexity(12.18249);
  const std::string text = JobText(job, 2);
  EXPECT_TRUE(absl::StrContains(text, "in round 1), perplexity 12.1825\n")) << text;
  EXPECT_TRUE(absl::StrContains(text, "ACCURACY  LOSS    PERPLEXITY  SECONDS")) << text;
  EXPECT_TRUE(absl::StrContains(text, "0.5000    2.5000  12.1825     0.0")) << text;
  EXPECT_TRUE(absl::StrContains(JobLine(job), ", accuracy 0.5000, perplexity 12.1825, 1.2 MB up")) << JobLine(job);
}

TEST(RenderTest, JobTable_OneLineAJob) {
  proto::CoordinatorStatus status;
  EXPECT_EQ(JobTable(status), "no jobs\n");
  *status.add_jobs() = TestJob();
  EXPECT_EQ(JobTable(status),
            "JOB    NAME  STATE    ROUND  ACCURACY  UP      DOWN   LEFT\n"
            "job-1  demo  running  2/8    0.5000    1.2 MB  999 B  2m05s\n");
}

TEST(RenderTest, StatusText_ShowsJobsAndClients) {
  proto::CoordinatorStatus status;
  status.set_version("1.2.3");
  status.set_now_ms(61'000);
  status.set_started_ms(1'000);
  status.set_insecure(true);
  EXPECT_TRUE(absl::StrContains(StatusText(status), "coordinator 1.2.3, up for 1m00s, insecure"));
  EXPECT_TRUE(absl::StrContains(StatusText(status), "no clients"));
  *status.add_jobs() = TestJob();
  proto::ClientStatus& client = *status.add_clients();
  client.set_client_id("a");
  client.set_connected(true);
  client.set_activity("training");
  client.set_steps_done(3);
  client.set_steps_total(9);
  const std::string text = StatusText(status);
  EXPECT_TRUE(absl::StrContains(text, "job-1 (demo) running")) << text;
  EXPECT_TRUE(absl::StrContains(text, "training 3/9")) << text;
}

TEST(RenderTest, LastAccuracy_NoneYet) { EXPECT_EQ(LastAccuracy(proto::JobStatus()), "-"); }

}  // namespace
}  // namespace weft::cli
