// Clients coming, speaking and going.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "proto/schema.h"
#include "server/testing/coordinator_fixture.h"

namespace weft::server {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using CoordinatorClientsTest = CoordinatorFixture;

class NullChannel : public ClientChannel {
 public:
  void Send(const proto::ServerMessage&) override {}
  void Close(const absl::Status&) override {}
};

TEST_F(CoordinatorClientsTest, Join_WelcomeTellsTheLimits) {
  const proto::Welcome& welcome = Add("a").welcome();
  EXPECT_EQ(welcome.protocol_version(), proto::kProtocolVersion);
  EXPECT_EQ(welcome.chunk_bytes(), static_cast<uint64_t>(config_.chunk_bytes()));
  EXPECT_EQ(welcome.max_message_bytes(), static_cast<uint64_t>(config_.max_message_bytes()));
  EXPECT_TRUE(ClientOf("a").connected());
  EXPECT_EQ(ClientOf("a").activity(), "idle");
}

TEST_F(CoordinatorClientsTest, Join_BadHellosAreRefused) {
  struct Case {
    uint32_t version;
    const char* id;
    const char* instance;
    absl::StatusCode code;
    const char* message;
  };
  const Case cases[] = {
      {proto::kProtocolVersion + 1, "a", "i", absl::StatusCode::kFailedPrecondition, "protocol version"},
      {proto::kProtocolVersion, "", "i", absl::StatusCode::kInvalidArgument, "client_id"},
      {proto::kProtocolVersion, "a b", "i", absl::StatusCode::kInvalidArgument, "client_id"},
      {proto::kProtocolVersion, "a\nb", "i", absl::StatusCode::kInvalidArgument, "client_id"},
      {proto::kProtocolVersion, "a", "", absl::StatusCode::kInvalidArgument, "instance"},
  };
  for (const Case& c : cases) {
    proto::Hello hello;
    hello.set_protocol_version(c.version);
    hello.set_client_id(c.id);
    hello.set_instance(c.instance);
    const absl::Status status =
        coordinator_->Join(hello, std::make_shared<NullChannel>(), [](const proto::Welcome&) { FAIL(); });
    EXPECT_EQ(status.code(), c.code);
    EXPECT_THAT(status.message(), HasSubstr(c.message));
  }
}

TEST_F(CoordinatorClientsTest, Join_SecondClientWithTheSameIdIsRefused) {
  Add("a");
  FakeClient second(coordinator_.get(), {.id = "a", .instance = "i2"});
  const absl::Status status = second.Join();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(status.message(), HasSubstr("its own client_id"));
  EXPECT_EQ(Client("a").closed(), absl::OkStatus());
}

TEST_F(CoordinatorClientsTest, Join_SameInstanceReplacesItsOldStream) {
  Add("a");
  FakeClient again(coordinator_.get(), {.id = "a"});
  EXPECT_EQ(again.Join(), absl::OkStatus());
  EXPECT_EQ(Client("a").closed().code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(ClientOf("a").connected());
}

TEST_F(CoordinatorClientsTest, Join_OffersTheRunningJob) {
  Submit(SmallJob(1));
  EXPECT_THAT(Add("a").received(), ElementsAre("job"));
}

TEST_F(CoordinatorClientsTest, Offer_OtherBaseIsRefusedAndOthersGoOn) {
  const std::string job = Submit(SmallJob(1));
  AddWith({.id = "other", .base_hash = std::string(64, 'c')});
  Add("a");
  Add("b");
  AnswerOffers();
  EXPECT_THAT(ClientOf("other").activity(), HasSubstr("refused: holds base ccc"));
  Work();
  EXPECT_THAT(Client("other").received(), Not(Contains("train")));
  EXPECT_EQ(JobOf(job).rounds(0).selected(), 2);
}

TEST_F(CoordinatorClientsTest, JobReply_OtherLayoutIsRefusedAndOthersGoOn) {
  AddWith({.id = "other", .layout_hash = std::string(64, 'd')});
  Add("a");
  Add("b");
  const std::string job = Submit(SmallJob(1));
  AnswerOffers();
  EXPECT_THAT(ClientOf("other").activity(), HasSubstr("refused: laid the adapter out as ddd"));
  Work();
  EXPECT_EQ(JobOf(job).rounds(0).selected(), 2);
  EXPECT_THAT(Client("other").received(), ElementsAre("job", "job_ended", "job_ended"));
}

TEST_F(CoordinatorClientsTest, JobReply_ClientsOwnReasonIsShown) {
  const std::string job = Submit(SmallJob(1));
  FakeClient& a = Add("a");
  proto::ClientMessage reply;
  reply.mutable_job_reply()->set_job_id(job);
  reply.mutable_job_reply()->set_reason("labels differ");
  EXPECT_EQ(a.Say(reply), absl::OkStatus());
  EXPECT_EQ(ClientOf("a").activity(), "refused: labels differ");
}

TEST_F(CoordinatorClientsTest, OnMessage_NotConnectedFailsPrecondition) {
  FakeClient stranger(coordinator_.get(), {.id = "a"});
  proto::ClientMessage message;
  message.mutable_progress();
  EXPECT_EQ(stranger.Say(message).code(), absl::StatusCode::kFailedPrecondition);
  Add("a");
  FakeClient impostor(coordinator_.get(), {.id = "a", .instance = "i2"});
  EXPECT_EQ(impostor.Say(message).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(CoordinatorClientsTest, OnMessage_HelloOrNothingIsInvalid) {
  FakeClient& a = Add("a");
  proto::ClientMessage message;
  EXPECT_EQ(a.Say(message).code(), absl::StatusCode::kInvalidArgument);
  message.mutable_hello();
  EXPECT_EQ(a.Say(message).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CoordinatorClientsTest, Progress_IsShownAndKeepsTheClientInTheRound) {
  Add("a");
  Add("b");
  proto::JobConfig config = SmallJob(1);
  const std::string job = Submit(config);
  TakePlan("b");
  Work({"a"});
  proto::ClientMessage message;
  proto::Progress& progress = *message.mutable_progress();
  progress.set_job_id(job);
  progress.set_round(1);
  progress.set_activity("training");
  progress.set_total(9);
  for (int64_t step = 1; step <= 5; ++step) {
    progress.set_done(step);
    EXPECT_EQ(Client("b").Say(message), absl::OkStatus());
    After(absl::Seconds(59));
    EXPECT_EQ(JobOf(job).phase(), "training");
  }
  EXPECT_EQ(ClientOf("b").activity(), "training");
  EXPECT_EQ(ClientOf("b").steps_done(), 5);
  EXPECT_EQ(ClientOf("b").steps_total(), 9);
  After(absl::Seconds(1));
  EXPECT_EQ(JobOf(job).phase(), "evaluating");
  EXPECT_THAT(Client("b").received(), Contains("cancel"));
}

TEST_F(CoordinatorClientsTest, Evaluation_BadOnesCostOnlyThatClient) {
  struct Case {
    std::string client;
    uint64_t examples, correct;
    double loss_sum;
    int labels;
    const char* message;
  };
  const Case cases[] = {
      {"b", 10, 5, 1, 2, "of client b"},
      {"a", 10, 11, 1, 2, "11 correct of 10"},
      {"a", 10, 5, std::numeric_limits<double>::quiet_NaN(), 2, "loss_sum"},
      {"a", 10, 5, 1, 3, "counts of 3 classes, expected 2"},
      {"a", 16, 5, 1, 2, "asked for 15"},
  };
  for (const Case& c : cases) {
    Add("a");
    Add("b");
    proto::JobConfig config = SmallJob(1);
    config.mutable_evaluation()->set_final_rows(15);
    const std::string job = Submit(config);
    while (JobOf(job).phase() != "evaluating") ASSERT_TRUE(WorkOnce());
    TakeEvaluation("a");
    proto::ClientMessage message;
    proto::Evaluation& evaluation = *message.mutable_evaluation();
    evaluation.set_job_id(job);
    evaluation.set_round(1);
    evaluation.set_client_id(c.client);
    evaluation.set_examples(c.examples);
    evaluation.set_correct(c.correct);
    evaluation.set_loss_sum(c.loss_sum);
    FakeClient::CountClasses(c.labels, &evaluation);
    const absl::Status status = Client("a").Say(message);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr(c.message));
    Work();
    EXPECT_EQ(JobOf(job).state(), proto::FINISHED);
    EXPECT_EQ(JobOf(job).rounds(0).evaluated_examples(), 15u);
    EXPECT_DOUBLE_EQ(JobOf(job).rounds(0).accuracy(), 5.0 / 15);
    EXPECT_DOUBLE_EQ(JobOf(job).rounds(0).f1(), (2 * 5.0 / (15 + 5) + 0) / 2);
    state_dir_ += "-next";
    Open();
  }
}

TEST_F(CoordinatorClientsTest, Leave_RejoiningClientKeepsItsPlaceAndGetsItsPlanAgain) {
  Add("a");
  Add("b");
  const std::string job = Submit(SmallJob(1));
  const proto::Plan first = TakePlan("b");
  Work({"a"});
  Client("b").Leave();
  EXPECT_FALSE(ClientOf("b").connected());
  After(absl::Seconds(29));
  EXPECT_EQ(JobOf(job).phase(), "training");
  AddWith({.id = "b", .instance = "i2"});
  const proto::Plan again = TakePlan("b");
  EXPECT_EQ(again.SerializeAsString(), first.SerializeAsString());
}

TEST_F(CoordinatorClientsTest, Leave_GraceOverGoesOnWithoutTheClient) {
  Add("a");
  Add("b");
  const std::string job = Submit(SmallJob(1));
  TakePlan("b");
  Work({"a"});
  Client("b").Leave();
  After(absl::Seconds(30));
  Work({"a"});
  EXPECT_EQ(JobOf(job).state(), proto::FINISHED);
  EXPECT_EQ(JobOf(job).rounds(0).updates(), 1);
}

TEST_F(CoordinatorClientsTest, Leave_OfAnotherInstanceIsIgnored) {
  Add("a");
  coordinator_->Leave("a", "i2");
  coordinator_->Leave("nobody", "i1");
  EXPECT_TRUE(ClientOf("a").connected());
}

TEST_F(CoordinatorClientsTest, Goodbye_IsNotWaitedFor) {
  Add("a");
  Add("b");
  const std::string job = Submit(SmallJob(1));
  TakePlan("b");
  Work({"a"});
  proto::ClientMessage goodbye;
  goodbye.mutable_goodbye()->set_reason("SIGTERM");
  EXPECT_EQ(Client("b").Say(goodbye), absl::OkStatus());
  Client("b").Leave();
  EXPECT_EQ(JobOf(job).phase(), "evaluating");
}

TEST_F(CoordinatorClientsTest, Join_LateClientWaitsForTheNextRound) {
  Add("a");
  Add("b");
  const std::string job = Submit(SmallJob(2));
  TakePlan("a");
  const proto::Plan plan = TakePlan("b");
  FakeClient& late = Add("late");
  Work({"late"});
  EXPECT_THAT(late.received(), ElementsAre("job"));
  const EncodedUpdate update = *late.Train(plan);
  const proto::UploadStart start = late.UploadOf(plan, update);
  EXPECT_EQ(coordinator_->BeginUpload(start).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(JobOf(job).rounds(), IsEmpty());
}

}  // namespace
}  // namespace weft::server
