// Adapters going down and updates coming up.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <thread>

#include "server/testing/coordinator_fixture.h"
#include "server/testing/disk_full.h"

namespace weft::server {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CoordinatorUploadsTest : public CoordinatorFixture {
 protected:
  // A job of two clients whose first plans are out.
  void Begin(proto::JobConfig config = SmallJob(1)) {
    Add("a");
    Add("b");
    job_ = Submit(config);
    plan_a_ = TakePlan("a");
    plan_b_ = TakePlan("b");
    trained_ = std::make_unique<EncodedUpdate>(*Client("a").Train(plan_a_));
    start_ = Client("a").UploadOf(plan_a_, *trained_);
  }
  absl::StatusCode BeginCode(const proto::UploadStart& start) {
    return coordinator_->BeginUpload(start).status().code();
  }

  std::string job_;
  proto::Plan plan_a_, plan_b_;
  std::unique_ptr<EncodedUpdate> trained_;
  proto::UploadStart start_;
};

TEST_F(CoordinatorUploadsTest, Download_GivesWhatPlansStartFrom) {
  Begin();
  proto::DownloadRequest request;
  request.set_job_id(job_);
  request.set_client_id("a");
  const auto download = coordinator_->Download(request);
  ASSERT_TRUE(download.ok()) << download.status();
  EXPECT_EQ(download->state->ContentHash(), HashOf(job_, "0"));
  EXPECT_EQ(*download->layout, *download->job_layout);
  EXPECT_THAT(download->roles, IsEmpty()) << "all";
  request.set_round(1);
  EXPECT_EQ(coordinator_->Download(request).status().code(), absl::StatusCode::kAborted);
  request.set_round(0);
  request.set_client_id("stranger");
  EXPECT_EQ(coordinator_->Download(request).status().code(), absl::StatusCode::kFailedPrecondition);
  request.set_job_id("nope");
  EXPECT_EQ(coordinator_->Download(request).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(coordinator_->Stop(job_).ok());
  request.set_job_id(job_);
  request.set_client_id("a");
  EXPECT_EQ(coordinator_->Download(request).status().code(), absl::StatusCode::kAborted);
}

TEST_F(CoordinatorUploadsTest, BeginUpload_BadFactsCostOnlyThatClient) {
  struct Case {
    const char* message;
    void (*spoil)(proto::UploadStart*);
  };
  const Case cases[] = {
      {"0 examples", [](proto::UploadStart* start) { start->mutable_update()->set_examples(0); }},
      {"found layout",
       [](proto::UploadStart* start) { start->mutable_header()->set_layout_hash(std::string(64, 'e')); }},
      {"bytes, expected the layout's",
       [](proto::UploadStart* start) { start->mutable_header()->set_total_bytes(1 << 30); }},
      {"training loss nan",
       [](proto::UploadStart* start) { start->mutable_update()->mutable_metrics()->set_loss(NAN); }},
  };
  for (const Case& c : cases) {
    Begin();
    c.spoil(&start_);
    const absl::Status status = coordinator_->BeginUpload(start_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr(c.message));
    EXPECT_EQ(Client("b").Carry(plan_b_), absl::OkStatus());
    EXPECT_EQ(JobOf(job_).rounds(0).updates(), 1);
    state_dir_ += "-next";
    Open();
  }
}

TEST_F(CoordinatorUploadsTest, BeginUpload_WhatIsNotWantedIsRefused) {
  proto::JobConfig config = SmallJob(2);
  config.mutable_evaluation()->set_every(0);
  Begin(config);
  proto::UploadStart other = start_;
  other.mutable_update()->set_job_id("nope");
  EXPECT_EQ(BeginCode(other), absl::StatusCode::kNotFound);
  other = start_;
  other.mutable_update()->set_client_id("stranger");
  EXPECT_EQ(BeginCode(other), absl::StatusCode::kFailedPrecondition);
  other = start_;
  other.mutable_update()->set_round(2);
  EXPECT_EQ(BeginCode(other), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Client("a").Carry(plan_a_), absl::OkStatus());
  EXPECT_EQ(BeginCode(start_), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Client("b").Carry(plan_b_), absl::OkStatus());
  EXPECT_EQ(BeginCode(start_), absl::StatusCode::kAborted) << "upload for a past round";
  EXPECT_TRUE(coordinator_->Stop(job_).ok());
  EXPECT_EQ(BeginCode(start_), absl::StatusCode::kAborted) << "upload for an ended job";
}

TEST_F(CoordinatorUploadsTest, FinishUpload_NanUpdateIsRefusedAndLeavesNoTrace) {
  Begin();
  Adapter values = trained_->Decode();
  values.values()[5] = std::numeric_limits<float>::quiet_NaN();
  const absl::Status status = Client("a").Upload(start_, EncodedUpdate::View(values).Clone());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(BeginCode(start_), absl::StatusCode::kAborted) << "out of this round";
  EXPECT_EQ(Client("b").Carry(plan_b_), absl::OkStatus());
  Work();
  EXPECT_EQ(JobOf(job_).state(), proto::FINISHED);
  EXPECT_EQ(JobOf(job_).rounds(0).updates(), 1);
  const auto exported = coordinator_->Export(job_, "last");
  ASSERT_TRUE(exported.ok()) << exported.status();
  EXPECT_EQ(CheckFinite(*exported->adapter), absl::OkStatus());
}

TEST_F(CoordinatorUploadsTest, FinishUpload_UnknownTicketFailsPrecondition) {
  Begin();
  EXPECT_EQ(coordinator_->UploadProgress(99, 1).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(coordinator_->FinishUpload(99, std::move(*trained_)).code(), absl::StatusCode::kFailedPrecondition);
  coordinator_->AbandonUpload(99, absl::CancelledError());
}

TEST_F(CoordinatorUploadsTest, FinishUpload_LateIsAborted) {
  proto::JobConfig config = SmallJob(1);
  config.mutable_selection()->set_rule("uniform");
  config.mutable_selection()->set_clients(1);
  config.mutable_selection()->set_over_select(2);
  Begin(config);
  const auto ticket = coordinator_->BeginUpload(start_);
  ASSERT_TRUE(ticket.ok()) << ticket.status();
  EXPECT_EQ(Client("b").Carry(plan_b_), absl::OkStatus());
  EXPECT_EQ(coordinator_->UploadProgress(ticket->id, 8).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(coordinator_->FinishUpload(ticket->id, std::move(*trained_)).code(), absl::StatusCode::kAborted);
}

TEST_F(CoordinatorUploadsTest, AbandonUpload_BrokenTransportMayTryAgain) {
  Begin();
  const auto ticket = coordinator_->BeginUpload(start_);
  coordinator_->AbandonUpload(ticket->id, absl::UnavailableError("connection reset"));
  EXPECT_EQ(Client("a").Upload(start_, std::move(*trained_)), absl::OkStatus());
}

TEST_F(CoordinatorUploadsTest, AbandonUpload_BadContentLeavesTheRound) {
  Begin();
  const auto ticket = coordinator_->BeginUpload(start_);
  coordinator_->AbandonUpload(ticket->id, absl::InvalidArgumentError("chunk 3: wrong CRC32C"));
  const absl::Status status = coordinator_->BeginUpload(start_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(status.message(), HasSubstr("wrong CRC32C"));
}

TEST_F(CoordinatorUploadsTest, BeginUpload_AgainReplacesTheBrokenOne) {
  Begin();
  const auto old = coordinator_->BeginUpload(start_);
  const auto again = coordinator_->BeginUpload(start_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(coordinator_->UploadProgress(old->id, 8).code(), absl::StatusCode::kAborted);
  coordinator_->AbandonUpload(old->id, absl::InvalidArgumentError("ended in the middle"));
  EXPECT_EQ(coordinator_->UploadProgress(again->id, 8), absl::OkStatus());
  EXPECT_EQ(coordinator_->FinishUpload(again->id, std::move(*trained_)), absl::OkStatus());
}

TEST_F(CoordinatorUploadsTest, UploadProgress_KeepsTheClientInTheRound) {
  Begin();
  EXPECT_EQ(Client("b").Carry(plan_b_), absl::OkStatus());
  const auto ticket = coordinator_->BeginUpload(start_);
  for (uint64_t bytes = 4; bytes <= 20; bytes += 4) {
    After(absl::Seconds(59));
    EXPECT_EQ(coordinator_->UploadProgress(ticket->id, bytes), absl::OkStatus());
  }
  EXPECT_EQ(ClientOf("a").bytes_up(), 20u);
  EXPECT_EQ(ClientOf("a").activity(), "uploading");
  EXPECT_EQ(coordinator_->FinishUpload(ticket->id, std::move(*trained_)), absl::OkStatus());
  Work();
  EXPECT_EQ(JobOf(job_).rounds(0).updates(), 2);
}

class UploadMemoryTest : public CoordinatorUploadsTest {
 protected:
  // Room for one update at a time.
  void BeginNarrow() {
    const auto layout = *coordinator_->LayoutFor(SmallJob(1));
    config_.set_upload_memory_bytes(layout->size_bytes());
    Open();
    Begin();
  }
};

TEST_F(UploadMemoryTest, BeginUpload_WaitsForMemoryAndStaysAlive) {
  BeginNarrow();
  const auto first = coordinator_->BeginUpload(start_);
  ASSERT_TRUE(first.ok()) << first.status();
  absl::Status outcome = absl::UnknownError("not yet");
  std::thread second([&] { outcome = Client("b").Carry(plan_b_); });
  for (uint64_t seen = 0; ClientOf("b").activity() != "uploading";)
    seen = coordinator_->WaitForChange(seen, absl::Hours(1));
  // However long the first takes, the one that waits does not stall.
  uint64_t bytes = 0;
  for (int minute = 0; minute < 5; ++minute) {
    EXPECT_EQ(coordinator_->UploadProgress(first->id, bytes += 4), absl::OkStatus());
    After(absl::Seconds(30));
  }
  EXPECT_EQ(coordinator_->FinishUpload(first->id, std::move(*trained_)), absl::OkStatus());
  second.join();
  EXPECT_EQ(outcome, absl::OkStatus());
}

TEST_F(UploadMemoryTest, BeginUpload_WaitingEndsAtShutdown) {
  BeginNarrow();
  ASSERT_TRUE(coordinator_->BeginUpload(start_).ok());
  absl::Status outcome;
  std::thread second([&] { outcome = Client("b").Carry(plan_b_); });
  coordinator_->Shutdown();
  second.join();
  EXPECT_EQ(outcome.code(), absl::StatusCode::kUnavailable);
}

TEST_F(UploadMemoryTest, BeginUpload_WaitingEndsWithTheJob) {
  BeginNarrow();
  ASSERT_TRUE(coordinator_->BeginUpload(start_).ok());
  absl::Status outcome;
  std::thread second([&] { outcome = Client("b").Carry(plan_b_); });
  EXPECT_TRUE(coordinator_->Stop(job_).ok());
  second.join();
  EXPECT_EQ(outcome.code(), absl::StatusCode::kAborted);
}

TEST_F(CoordinatorUploadsTest, FinishUpload_DiskFullIsResourceExhaustedAndMayTryAgain) {
  Begin();
  const auto ticket = coordinator_->BeginUpload(start_);
  {
    const DiskFull full;
    EXPECT_EQ(coordinator_->FinishUpload(ticket->id, trained_->Clone()).code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(Client("a").Upload(start_, std::move(*trained_)), absl::OkStatus());
  EXPECT_EQ(Client("b").Carry(plan_b_), absl::OkStatus());
  Work();
  EXPECT_EQ(JobOf(job_).state(), proto::FINISHED);
}

TEST_F(CoordinatorUploadsTest, Submit_DiskFullIsResourceExhausted) {
  {
    const DiskFull full;
    EXPECT_EQ(coordinator_->Submit(SmallJob(1), std::nullopt).status().code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(Submit(SmallJob(1)), "small-1");
}

TEST_F(CoordinatorUploadsTest, Round_DiskFullAtItsStartWaitsAndTriesAgain) {
  Add("a");
  Add("b");
  job_ = Submit(SmallJob(1));
  {
    const DiskFull full;
    Work();
    EXPECT_EQ(JobOf(job_).phase(), "selecting");
    EXPECT_THAT(JobOf(job_).message(), HasSubstr("waiting: "));
    EXPECT_THAT(JobOf(job_).message(), HasSubstr("free space"));
  }
  After(absl::Seconds(5));
  Work();
  EXPECT_EQ(JobOf(job_).state(), proto::FINISHED);
}

// The last update's round closes by time, so that the commit alone meets the full disk.
TEST_F(CoordinatorUploadsTest, Commit_DiskFullWaitsAndLosesNothing) {
  Begin();
  EXPECT_EQ(Client("a").Upload(start_, std::move(*trained_)), absl::OkStatus());
  {
    const DiskFull full;
    After(absl::Seconds(61));
    EXPECT_EQ(JobOf(job_).phase(), "aggregating");
    EXPECT_THAT(JobOf(job_).message(), HasSubstr("waiting"));
    After(absl::Seconds(61));
    EXPECT_EQ(JobOf(job_).phase(), "aggregating");
  }
  After(absl::Seconds(5));
  Work();
  EXPECT_EQ(JobOf(job_).state(), proto::FINISHED);
  EXPECT_EQ(JobOf(job_).rounds(0).updates(), 1);
}

}  // namespace
}  // namespace weft::server
