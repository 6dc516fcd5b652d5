// The daemon's connection: hello, reconnects, errors that end it, stopping.

#include "client/daemon.h"

#include "absl/strings/match.h"
#include "client/testing/daemon_fixture.h"
#include "proto/schema.h"

namespace weft {
namespace {

using DaemonTest = DaemonFixture;

TEST_F(DaemonTest, Run_SaysWhatItHoldsInHello) {
  Start();
  const proto::Hello hello = coordinator_.WaitForConnect(1);
  EXPECT_EQ(hello.protocol_version(), proto::kProtocolVersion);
  EXPECT_EQ(hello.client_id(), "a");
  EXPECT_EQ(hello.base_hash(), trainer_->base_hash());
  EXPECT_EQ(hello.train_examples(), 10u);
  EXPECT_EQ(hello.test_examples(), 6u);
  EXPECT_EQ(hello.device(), "fake");
  EXPECT_EQ(hello.version(), "test");
  EXPECT_FALSE(hello.instance().empty());
}

TEST_F(DaemonTest, Stop_SaysGoodbyeAndEndsWithOk) {
  Start();
  coordinator_.WaitForConnect(1);
  // The stream is known to stand on both ends once an answer came over it.
  SetAdapters();
  OfferJob();
  coordinator_.WaitFor(proto::ClientMessage::kJobReply);
  daemon_->Stop("because");
  EXPECT_EQ(coordinator_.WaitFor(proto::ClientMessage::kGoodbye).goodbye().reason(), "because");
  EXPECT_TRUE(Join().ok());
}

TEST_F(DaemonTest, Stop_BeforeRun) {
  Prepare();
  daemon_->Stop("early");
  EXPECT_TRUE(daemon_->Run().ok());
}

TEST_F(DaemonTest, Stop_WhileDialling) {
  coordinator_.HangConnect();
  Start();
  coordinator_.WaitForConnectAttempts(1);
  daemon_->Stop("now");
  EXPECT_TRUE(Join().ok());
}

TEST_F(DaemonTest, Stop_MidTraining) {
  StartWithJob();
  HoldTraining();
  coordinator_.Push(PlanOf(1));
  WaitUntilHeld(1);
  daemon_->Stop("now");
  EXPECT_TRUE(Join().ok());
  EXPECT_EQ(coordinator_.pending(proto::ClientMessage::kGoodbye), 1);
  EXPECT_EQ(coordinator_.pending(proto::ClientMessage::kFailure), 0);
  EXPECT_EQ(coordinator_.upload_attempts(), 0);
}

TEST_F(DaemonTest, Run_TriesAgainWhileUnavailable) {
  for (int i = 0; i < 5; ++i) coordinator_.FailConnect(absl::UnavailableError("nobody there"));
  Start();
  coordinator_.WaitForConnect(1);
  coordinator_.WaitForConnectAttempts(6);
}

TEST_F(DaemonTest, Run_ComesBackAsTheSameInstance) {
  Start();
  const std::string instance = coordinator_.WaitForConnect(1).instance();
  coordinator_.Break();
  EXPECT_EQ(coordinator_.WaitForConnect(2).instance(), instance);
}

TEST_F(DaemonTest, Run_ComesBackAfterTheCoordinatorEndedTheStream) {
  Start();
  coordinator_.WaitForConnect(1);
  coordinator_.Break(absl::InvalidArgumentError("what was that"));
  coordinator_.WaitForConnect(2);
}

TEST_F(DaemonTest, Run_EndsWhenTheIdIsInUse) {
  coordinator_.FailConnect(absl::AlreadyExistsError("client id \"a\" is in use"));
  Start();
  EXPECT_EQ(Join(), absl::AlreadyExistsError("client id \"a\" is in use"));
}

TEST_F(DaemonTest, Run_EndsWhenTheVersionDiffers) {
  coordinator_.FailConnect(absl::FailedPreconditionError("protocol version"));
  Start();
  EXPECT_EQ(Join().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(DaemonTest, Run_EndsWhenHelloIsRefused) {
  coordinator_.FailConnect(absl::InvalidArgumentError("bad id"));
  Start();
  EXPECT_EQ(Join().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(DaemonTest, Run_EndsWhenNoLinkCanBeMade) {
  make_link_status_ = absl::InvalidArgumentError("bad address");
  Start();
  EXPECT_EQ(Join().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace weft
