// What a client does with plans, seen from the coordinator's side of a daemon.

#include "client/worker.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/testing/daemon_fixture.h"

namespace weft {
namespace {

// Waits until everything pushed so far has been dealt with: offers of new jobs are answered in order.
#define EXPECT_STILL_THERE() EXPECT_TRUE(ReplyTo(OtherOffer()).accepted())

class WorkerPlanTest : public DaemonFixture {
 protected:
  proto::JobOffer OtherOffer() {
    proto::JobOffer offer = Offer();
    // A job of its own each time: an offer already answered is answered at once, beside the work under way.
    offer.set_job_id(absl::StrCat("other-", ++others_));
    return offer;
  }

 private:
  int others_ = 0;
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
  EXPECT_EQ(upload.tensors.layout(), *layout_);
  const Adapter start = StartOf(1);
  const CohortMember member{.client_id = "a", .start = &start, .shard = data_->split("train"), .seed = 5};
  auto expected = trainer_->Train(PlanOf(2).train(), {&member, 1}, [](int64_t, int64_t) { return true; });
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_TRUE(expected->front().ok()) << expected->front().status();
  Adapter& delta = expected->front()->adapter;
  for (size_t i = 0; i < delta.values().size(); ++i) delta.values()[i] -= start.values()[i];
  EXPECT_EQ(upload.adapter.ContentHash(), delta.ContentHash());
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

TEST_F(WorkerPlanTest, Train_TrainsAndSendsNoMoreComponentsThanItHasRoomFor) {
  max_rank_ = 1;
  Start();
  coordinator_.WaitForConnect(1);
  SetAdapters();
  EXPECT_EQ(ReplyTo(Offer()).max_rank(), 1);
  coordinator_.Push(PlanOf(1));
  const FakeCoordinator::Upload upload = coordinator_.WaitForUpload();
  EXPECT_EQ(upload.update.rank(), 1);
  EXPECT_EQ(upload.tensors.layout().tensors()[0].shape, (std::vector<int64_t>{1, 4}));
}

// What int8 drops of the first update comes with the second.
TEST_F(WorkerPlanTest, Upload_StateIsKeptOnceTheUpdateIsAccepted) {
  StartWithJob();
  proto::ServerMessage plan = PlanOf(1);
  plan.mutable_train()->mutable_encoding()->set_values("int8");
  plan.mutable_train()->mutable_encoding()->set_error_feedback(true);
  coordinator_.FailUpload(absl::InvalidArgumentError("not this one"));
  coordinator_.Push(plan);
  WaitForFailure();
  EXPECT_STILL_THERE();  // the failed plan is done with: one that equals the plan under way is not begun again
  EXPECT_EQ(states_->Get("job", "a")->error, nullptr);
  coordinator_.Push(plan);
  coordinator_.WaitForUpload();
  EXPECT_STILL_THERE();
  const auto kept = states_->Get("job", "a");
  EXPECT_EQ(kept->round, 1);
  ASSERT_NE(kept->error, nullptr);
  EXPECT_NE(EncodedUpdate::View(*kept->error).norm(), 0);
}

TEST_F(WorkerPlanTest, Upload_AlreadyInCountsAsAccepted) {
  StartWithJob();
  coordinator_.FailUpload(absl::AlreadyExistsError("the update is in"));
  coordinator_.Push(PlanOf(1));
  EXPECT_STILL_THERE();
  EXPECT_EQ(states_->Get("job", "a")->round, 1);
}

TEST_F(WorkerPlanTest, Upload_NoLongerWantedKeepsNothing) {
  StartWithJob();
  coordinator_.FailUpload(absl::AbortedError("round is over"));
  coordinator_.Push(PlanOf(1));
  EXPECT_STILL_THERE();
  EXPECT_EQ(states_->Get("job", "a")->round, 0);
}

TEST_F(WorkerPlanTest, JobEnded_ForgetsWhatWasKept) {
  StartWithJob();
  coordinator_.Push(PlanOf(1));
  coordinator_.WaitForUpload();
  coordinator_.Push(JobEndedMessage());
  EXPECT_STILL_THERE();
  EXPECT_EQ(states_->Get("job", "a")->round, 0);
}

TEST_F(WorkerPlanTest, Train_OwnRolesReplaceTheBroadcastOnesInTrainingAndEvaluation) {
  StartWithJob();
  proto::ServerMessage plan = PlanOf(1);
  plan.mutable_train()->clear_roles_sent();
  plan.mutable_train()->add_roles_sent("lora_a");
  for (const char* role : {"lora_b", "head"}) plan.mutable_train()->add_roles_local(role);
  coordinator_.Push(plan);
  coordinator_.WaitForUpload();
  EXPECT_STILL_THERE();
  const auto kept = states_->Get("job", "a");
  ASSERT_NE(kept->local, nullptr);
  EXPECT_EQ(kept->local->layout().tensors().size(), 3u);
  // Evaluated are a zero A and own values above zero: more than the zeros of the broadcast.
  const auto correct = [&](const proto::ServerMessage& message) {
    coordinator_.Push(message);
    return coordinator_.WaitFor(proto::ClientMessage::kEvaluation).evaluation().loss_sum();
  };
  proto::ServerMessage own = EvaluationOf(0);
  for (const char* role : {"lora_b", "head"}) own.mutable_evaluate()->add_roles_local(role);
  EXPECT_LT(correct(own), correct(EvaluationOf(0)));
}

class WorkerBaseStepTest : public WorkerPlanTest {
 protected:
  void SetSteps() {
    const auto layout = *Layout::Create({{"m.base_A.weight", "base_a", {1, 4}}, {"m.base_B.weight", "base_b", {4, 1}}});
    for (int64_t round = 1; round <= 3; ++round) coordinator_.SetBaseStep(round, Adapter(layout));
  }
  static proto::ServerMessage SteppedPlan(int64_t round) {
    proto::ServerMessage message = PlanOf(round);
    message.mutable_train()->set_base_residual(true);
    return message;
  }
  // Rounds of the steps asked for since the last call.
  std::vector<int64_t> StepsAskedFor() {
    std::vector<int64_t> rounds;
    const auto requests = coordinator_.requests();
    for (size_t i = seen_; i < requests.size(); ++i) {
      if (requests[i].base_step()) rounds.push_back(requests[i].round());
    }
    seen_ = requests.size();
    return rounds;
  }
  size_t seen_ = 0;
};

TEST_F(WorkerBaseStepTest, Train_AppliesTheStepsItMissedAndTheOneItStartsFrom) {
  StartWithJob();
  SetSteps();
  coordinator_.Push(SteppedPlan(1));
  coordinator_.WaitForUpload();
  EXPECT_TRUE(StepsAskedFor().empty());  // round 0 has none
  coordinator_.Push(SteppedPlan(4));
  coordinator_.WaitForUpload();
  EXPECT_EQ(StepsAskedFor(), (std::vector<int64_t>{1, 2}));
  EXPECT_STILL_THERE();
  EXPECT_EQ(trainer_->base_round("job"), 3);
}

TEST_F(WorkerBaseStepTest, Evaluate_AnEarlierRoundStartsFromTheBaseAsItIs) {
  StartWithJob();
  SetSteps();
  coordinator_.Push(SteppedPlan(4));
  coordinator_.WaitForUpload();
  StepsAskedFor();
  proto::ServerMessage evaluation = EvaluationOf(2);
  evaluation.mutable_evaluate()->set_base_residual(true);
  coordinator_.Push(evaluation);
  coordinator_.WaitFor(proto::ClientMessage::kEvaluation);
  EXPECT_EQ(StepsAskedFor(), (std::vector<int64_t>{1}));
  EXPECT_STILL_THERE();
  EXPECT_EQ(trainer_->base_round("job"), 2);
}

TEST_F(WorkerBaseStepTest, Train_AStepThatIsGoneIsReported) {
  StartWithJob();
  coordinator_.Push(SteppedPlan(4));
  EXPECT_TRUE(absl::StrContains(WaitForFailure(), "no adapter of this round"));
}

TEST_F(WorkerBaseStepTest, JobEnded_TakesTheStepsBack) {
  StartWithJob();
  SetSteps();
  coordinator_.Push(SteppedPlan(2));
  coordinator_.WaitForUpload();
  coordinator_.Push(JobEndedMessage());
  EXPECT_STILL_THERE();
  EXPECT_EQ(trainer_->base_round("job"), 0);
}

TEST_F(WorkerPlanTest, Train_SaysWhichRoundItHolds) {
  StartWithJob();
  for (int64_t round = 1; round <= 3; ++round) {
    coordinator_.Push(PlanOf(round));
    coordinator_.WaitForUpload();
  }
  const auto requests = coordinator_.requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_FALSE(requests[0].has_have_round());
  EXPECT_TRUE(requests[1].has_have_round());
  EXPECT_EQ(requests[1].have_round(), 0);
  EXPECT_EQ(requests[2].have_round(), 1);
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
