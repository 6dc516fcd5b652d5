// What a client does with plans, seen from the coordinator's side of a daemon.

#include "client/worker.h"

#include "absl/strings/match.h"
#include "client/testing/daemon_fixture.h"

namespace weft {
namespace {

// Waits until everything pushed so far has been dealt with: offers are answered in order.
#define EXPECT_STILL_THERE() EXPECT_TRUE(ReplyTo(OtherOffer()).accepted())

class WorkerPlanTest : public DaemonFixture {
 protected:
  proto::JobOffer OtherOffer() {
    proto::JobOffer offer = Offer();
    offer.set_job_id("other");
    return offer;
  }
};

TEST_F(WorkerPlanTest, Train_UploadsWhatTheTrainerMakes) {
  StartWithJob();
  coordinator_.Push(PlanOf(2));
  const FakeCoordinator::Upload upload = coordinator_.WaitForUpload();
  EXPECT_EQ(upload.update.job_id(), "job");
  EXPECT_EQ(upload.update.round(), 2);
  EXPECT_EQ(upload.update.client_id(), "a");
  EXPECT_EQ(upload.update.examples(), 10u);
  EXPECT_EQ(upload.update.metrics().steps(), 4);
  const Adapter start = StartOf(1);
  const CohortMember member{"a", &start, data_->split("train"), 5};
  const auto expected = trainer_->Train(PlanOf(2).train(), {&member, 1}, [](int64_t, int64_t) { return true; });
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_EQ(upload.adapter.ContentHash(), expected->front().adapter.ContentHash());
}

TEST_F(WorkerPlanTest, Train_SendsOnlyTheRolesAskedFor) {
  StartWithJob();
  proto::ServerMessage plan = PlanOf(1);
  plan.mutable_train()->clear_roles_sent();
  plan.mutable_train()->add_roles_sent("head");
  coordinator_.Push(plan);
  const FakeCoordinator::Upload upload = coordinator_.WaitForUpload();
  ASSERT_FALSE(upload.adapter.layout().tensors().empty());
  EXPECT_LT(upload.adapter.layout().num_elements(), layout_->num_elements());
  for (const TensorSpec& spec : upload.adapter.layout().tensors()) {
    EXPECT_EQ(spec.role, "head");
    EXPECT_GT(upload.adapter.tensor(spec)[0], 0);
  }
}

TEST_F(WorkerPlanTest, Train_AnotherSeedTrainsAnew) {
  StartWithJob();
  coordinator_.Push(PlanOf(1, /*seed=*/1));
  const std::string first = coordinator_.WaitForUpload().adapter.ContentHash();
  coordinator_.Push(PlanOf(1, /*seed=*/2));
  EXPECT_NE(coordinator_.WaitForUpload().adapter.ContentHash(), first);
  EXPECT_EQ(trainer_->trained(), 2);
}

TEST_F(WorkerPlanTest, Train_TrainerErrorIsReportedAndTheClientStays) {
  trainer_options_.train_status = absl::OutOfRangeError("the loss is NaN at step 3");
  StartWithJob();
  coordinator_.Push(PlanOf(1));
  const proto::Failure failure = coordinator_.WaitFor(proto::ClientMessage::kFailure).failure();
  EXPECT_EQ(failure.job_id(), "job");
  EXPECT_EQ(failure.round(), 1);
  EXPECT_EQ(failure.reason(), "the loss is NaN at step 3");
  EXPECT_STILL_THERE();
}

TEST_F(WorkerPlanTest, Train_JobThatWasNotOffered) {
  Start();
  coordinator_.WaitForConnect(1);
  coordinator_.Push(PlanOf(1));
  EXPECT_TRUE(absl::StrContains(WaitForFailure(), "not offered"));
}

TEST_F(WorkerPlanTest, Train_JobThatWasRefused) {
  Start();
  proto::JobOffer offer = Offer();
  offer.set_base_hash("0000");
  EXPECT_FALSE(ReplyTo(offer).accepted());
  coordinator_.Push(PlanOf(1));
  EXPECT_TRUE(absl::StrContains(WaitForFailure(), "this client refused"));
}

TEST_F(WorkerPlanTest, Train_NoTrainSplit) {
  data_options_.train_rows = 0;
  StartWithJob();
  coordinator_.Push(PlanOf(1));
  EXPECT_TRUE(absl::StrContains(WaitForFailure(), "no split \"train\""));
}

TEST_F(WorkerPlanTest, Train_DownloadOfARoundThatIsOverIsNoFailure) {
  StartWithJob();
  coordinator_.FailDownload(absl::AbortedError("round is over"));
  coordinator_.Push(PlanOf(1));
  EXPECT_STILL_THERE();
  EXPECT_EQ(coordinator_.pending(proto::ClientMessage::kFailure), 0);
}

TEST_F(WorkerPlanTest, Train_DownloadIsTriedAgainWhileTheConnectionStands) {
  StartWithJob();
  coordinator_.FailDownload(absl::UnavailableError("try again"));
  coordinator_.FailDownload(absl::DeadlineExceededError("stalled"));
  coordinator_.Push(PlanOf(1));
  coordinator_.WaitForUpload();
  EXPECT_EQ(coordinator_.downloads(), 3);
}

TEST_F(WorkerPlanTest, Train_DamagedDownloadIsReported) {
  StartWithJob();
  coordinator_.FailDownload(absl::DataLossError("chunk 3 is damaged"));
  coordinator_.Push(PlanOf(1));
  EXPECT_EQ(WaitForFailure(), "chunk 3 is damaged");
}

TEST_F(WorkerPlanTest, Upload_IsTriedAgainWhileTheConnectionStands) {
  StartWithJob();
  coordinator_.FailUpload(absl::UnavailableError("try again"));
  coordinator_.Push(PlanOf(1));
  coordinator_.WaitForUpload();
  EXPECT_EQ(coordinator_.upload_attempts(), 2);
  EXPECT_EQ(trainer_->trained(), 1);
}

TEST_F(WorkerPlanTest, Upload_NoLongerWantedIsNoFailure) {
  StartWithJob();
  coordinator_.FailUpload(absl::AbortedError("round is over"));
  coordinator_.Push(PlanOf(1));
  EXPECT_STILL_THERE();
  EXPECT_EQ(coordinator_.pending(proto::ClientMessage::kFailure), 0);
}

TEST_F(WorkerPlanTest, Upload_AlreadyInIsNoFailure) {
  StartWithJob();
  coordinator_.FailUpload(absl::AlreadyExistsError("the update is in"));
  coordinator_.Push(PlanOf(1));
  EXPECT_STILL_THERE();
  EXPECT_EQ(coordinator_.pending(proto::ClientMessage::kFailure), 0);
}

TEST_F(WorkerPlanTest, Upload_RefusedIsReported) {
  StartWithJob();
  coordinator_.FailUpload(absl::InvalidArgumentError("tensor x holds NaN"));
  coordinator_.Push(PlanOf(1));
  EXPECT_EQ(WaitForFailure(), "tensor x holds NaN");
}

TEST_F(WorkerPlanTest, Upload_KeptAcrossALostConnectionAndNotTrainedAgain) {
  StartWithJob();
  coordinator_.BreakOnUpload();
  coordinator_.Push(PlanOf(1));
  coordinator_.WaitForConnect(2);
  OfferJob();
  EXPECT_TRUE(coordinator_.WaitFor(proto::ClientMessage::kJobReply).job_reply().accepted());
  coordinator_.Push(PlanOf(1));
  EXPECT_EQ(coordinator_.WaitForUpload().update.round(), 1);
  EXPECT_EQ(trainer_->trained(), 1);
  EXPECT_EQ(coordinator_.downloads(), 1);
}

TEST_F(WorkerPlanTest, Train_GoesOnWhileTheCoordinatorIsAway) {
  StartWithJob();
  HoldTraining();
  coordinator_.Push(PlanOf(1));
  WaitUntilHeld(1);
  coordinator_.Break();
  coordinator_.WaitForConnect(2);
  // Answered at once, though the trainer is busy.
  OfferJob();
  EXPECT_TRUE(coordinator_.WaitFor(proto::ClientMessage::kJobReply).job_reply().accepted());
  coordinator_.Push(PlanOf(1));
  Release();
  coordinator_.WaitForUpload();
  EXPECT_EQ(trainer_->trained(), 1);
}

TEST_F(WorkerPlanTest, Train_OfALostConnectionGivesWayToAnotherPlan) {
  StartWithJob();
  HoldTraining();
  coordinator_.Push(PlanOf(1));
  WaitUntilHeld(1);
  coordinator_.Break();
  coordinator_.WaitForConnect(2);
  OfferJob();
  coordinator_.WaitFor(proto::ClientMessage::kJobReply);
  coordinator_.Push(PlanOf(2));
  WaitUntilHeld(2);
  Release();
  EXPECT_EQ(coordinator_.WaitForUpload().update.round(), 2);
  EXPECT_EQ(trainer_->trained(), 1);
}

TEST_F(WorkerPlanTest, Cancel_StopsTraining) {
  StartWithJob();
  HoldTraining();
  coordinator_.Push(PlanOf(1));
  WaitUntilHeld(1);
  coordinator_.Push(CancelOf(1));
  EXPECT_STILL_THERE();
  Release();
  EXPECT_EQ(trainer_->trained(), 0);
  EXPECT_EQ(coordinator_.pending(proto::ClientMessage::kFailure), 0);
  coordinator_.Push(PlanOf(2));
  EXPECT_EQ(coordinator_.WaitForUpload().update.round(), 2);
}

TEST_F(WorkerPlanTest, Cancel_OfAnotherRoundChangesNothing) {
  StartWithJob();
  HoldTraining();
  coordinator_.Push(PlanOf(2));
  WaitUntilHeld(2);
  coordinator_.Push(CancelOf(1));
  // A known offer is answered at once: the cancel before it has been dealt with.
  OfferJob();
  coordinator_.WaitFor(proto::ClientMessage::kJobReply);
  Release();
  EXPECT_EQ(coordinator_.WaitForUpload().update.round(), 2);
}

TEST_F(WorkerPlanTest, Cancel_ThenTheSamePlanTrainsAgain) {
  StartWithJob();
  HoldTraining();
  coordinator_.Push(PlanOf(1));
  WaitUntilHeld(1);
  coordinator_.Push(CancelOf(1));
  EXPECT_STILL_THERE();
  HoldTraining();
  coordinator_.Push(PlanOf(1));
  WaitUntilHeld(1);
  Release();
  EXPECT_EQ(coordinator_.WaitForUpload().update.round(), 1);
}

TEST_F(WorkerPlanTest, JobEnded_StopsTrainingAndForgetsTheJob) {
  StartWithJob();
  HoldTraining();
  coordinator_.Push(PlanOf(1));
  WaitUntilHeld(1);
  coordinator_.Push(JobEndedMessage());
  coordinator_.Push(PlanOf(2));
  EXPECT_TRUE(absl::StrContains(WaitForFailure(), "not offered"));
  Release();
  EXPECT_EQ(trainer_->trained(), 0);
}

TEST_F(WorkerPlanTest, Evaluate_SendsExactCounts) {
  StartWithJob();
  coordinator_.Push(EvaluationOf(3));
  const proto::Evaluation evaluation = coordinator_.WaitFor(proto::ClientMessage::kEvaluation).evaluation();
  EXPECT_EQ(evaluation.job_id(), "job");
  EXPECT_EQ(evaluation.round(), 3);
  EXPECT_EQ(evaluation.client_id(), "a");
  EXPECT_EQ(evaluation.examples(), 6u);
  // Mean 0.3: accuracy 1 - exp(-2.4) = 0.91 of 6 rows.
  EXPECT_EQ(evaluation.correct(), 5u);
}

TEST_F(WorkerPlanTest, Evaluate_ThenTrainFromTheSameRoundDownloadsOnce) {
  StartWithJob();
  coordinator_.Push(EvaluationOf(1));
  coordinator_.WaitFor(proto::ClientMessage::kEvaluation);
  coordinator_.Push(PlanOf(2));
  coordinator_.WaitForUpload();
  EXPECT_EQ(coordinator_.downloads(), 1);
  coordinator_.Push(PlanOf(3));
  coordinator_.WaitForUpload();
  EXPECT_EQ(coordinator_.downloads(), 2);
}

TEST_F(WorkerPlanTest, Evaluate_SplitThatIsNotThere) {
  StartWithJob();
  coordinator_.Push(EvaluationOf(1, "validation"));
  EXPECT_TRUE(absl::StrContains(WaitForFailure(), "no split \"validation\""));
}

TEST_F(WorkerPlanTest, Evaluate_ResultIsKeptAcrossALostConnection) {
  StartWithJob();
  coordinator_.BreakOnEvaluation();
  coordinator_.Push(EvaluationOf(1));
  coordinator_.WaitForConnect(2);
  OfferJob();
  coordinator_.WaitFor(proto::ClientMessage::kJobReply);
  coordinator_.Push(EvaluationOf(1));
  EXPECT_EQ(coordinator_.WaitFor(proto::ClientMessage::kEvaluation).evaluation().round(), 1);
  EXPECT_EQ(coordinator_.downloads(), 1);
}

TEST_F(WorkerPlanTest, Progress_IsPacedByTheClock) {
  StartWithJob();
  coordinator_.Push(PlanOf(1));
  coordinator_.WaitForUpload();
  // The clock stands: one message for each activity, not one for each step.
  std::vector<std::string> activities;
  while (coordinator_.pending(proto::ClientMessage::kProgress) > 0) {
    activities.push_back(coordinator_.WaitFor(proto::ClientMessage::kProgress).progress().activity());
  }
  EXPECT_EQ(activities, (std::vector<std::string>{"downloading", "training", "uploading"}));
}

TEST_F(WorkerPlanTest, Progress_ComesAgainAfterTheInterval) {
  StartWithJob();
  HoldTraining();
  coordinator_.Push(PlanOf(1));
  WaitUntilHeld(1);
  const auto training = [&] {
    while (true) {
      const proto::Progress progress = coordinator_.WaitFor(proto::ClientMessage::kProgress).progress();
      if (progress.activity() == "training") return progress;
    }
  };
  EXPECT_EQ(training().done(), 0);
  clock_.Advance(absl::Seconds(2));
  EXPECT_EQ(training().total(), 4);
  Release();
  coordinator_.WaitForUpload();
}

}  // namespace
}  // namespace weft
