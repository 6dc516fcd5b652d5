// Federation.Connect over a real loopback channel.

#include <gtest/gtest.h>

#include <string>

#include "server/net/client_stream.h"
#include "server/net/testing/loopback.h"

namespace weft::server {
namespace {

using grpc::StatusCode;

// One client's end.
struct Connection {
  explicit Connection(proto::Federation::Stub* stub) : stream(stub->Connect(&context)) {}
  ~Connection() { context.TryCancel(); }

  bool Send(const proto::ClientMessage& message) { return stream->Write(message); }
  bool Hello(const std::string& client_id, const std::string& instance, uint32_t version = proto::kProtocolVersion) {
    proto::ClientMessage message;
    message.mutable_hello()->set_client_id(client_id);
    message.mutable_hello()->set_instance(instance);
    message.mutable_hello()->set_protocol_version(version);
    return Send(message);
  }
  bool Progress(int64_t done) {
    proto::ClientMessage message;
    message.mutable_progress()->set_done(done);
    return Send(message);
  }
  // The status the coordinator ends the stream with; what it sent before is dropped.
  grpc::Status End() {
    for (proto::ServerMessage message; stream->Read(&message);) continue;
    return stream->Finish();
  }

  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<proto::ClientMessage, proto::ServerMessage>> stream;
};

proto::ServerMessage CancelOf(int64_t round) {
  proto::ServerMessage message;
  message.mutable_cancel()->set_round(round);
  return message;
}

class ClientStreamTest : public LoopbackTest {
 protected:
  // Joins and takes the welcome.
  void Join(Connection* connection, const std::string& client_id = "c1", const std::string& instance = "i1") {
    ASSERT_TRUE(connection->Hello(client_id, instance));
    proto::ServerMessage message;
    ASSERT_TRUE(connection->stream->Read(&message));
    ASSERT_TRUE(message.has_welcome());
  }
};

TEST_F(ClientStreamTest, Connect_WelcomeComesFirst) {
  Connection connection(federation_.get());
  Join(&connection);
  EXPECT_EQ(fake_.events(), std::vector<std::string>{"join c1"});
}

TEST_F(ClientStreamTest, Connect_PushesArriveInOrder) {
  Connection connection(federation_.get());
  Join(&connection);
  const auto channel = fake_.Channel("c1");
  for (int round = 1; round <= 200; ++round) channel->Send(CancelOf(round));
  channel->Close(absl::AbortedError("enough"));
  channel->Send(CancelOf(201));
  proto::ServerMessage message;
  for (int round = 1; round <= 200; ++round) {
    ASSERT_TRUE(connection.stream->Read(&message));
    EXPECT_EQ(message.cancel().round(), round);
  }
  EXPECT_FALSE(connection.stream->Read(&message));
  const grpc::Status status = connection.stream->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::ABORTED);
  EXPECT_TRUE(Says(status, "enough"));
}

TEST_F(ClientStreamTest, Connect_MessagesReachTheCoordinatorInOrder) {
  Connection connection(federation_.get());
  Join(&connection);
  for (int done = 1; done <= 50; ++done) ASSERT_TRUE(connection.Progress(done));
  fake_.WaitFor("message c1 i1 3 50");
  const auto events = fake_.events();
  for (int done = 1; done <= 50; ++done) EXPECT_EQ(events[done], "message c1 i1 3 " + std::to_string(done));
}

TEST_F(ClientStreamTest, Connect_AnotherMessageBeforeHelloIsRefused) {
  Connection connection(federation_.get());
  connection.Progress(1);
  const grpc::Status status = connection.End();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Says(status, "expected hello"));
  EXPECT_TRUE(fake_.events().empty());
}

TEST_F(ClientStreamTest, Connect_ASecondHelloIsRefused) {
  Connection connection(federation_.get());
  Join(&connection);
  connection.Hello("c1", "i1");
  const grpc::Status status = connection.End();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Says(status, "second hello"));
  fake_.WaitFor("leave c1");
}

TEST_F(ClientStreamTest, Connect_AnEmptyMessageIsRefused) {
  Connection connection(federation_.get());
  Join(&connection);
  connection.Send({});
  const grpc::Status status = connection.End();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Says(status, "unknown kind"));
}

TEST_F(ClientStreamTest, Connect_AnotherProtocolVersionIsRefused) {
  Connection connection(federation_.get());
  connection.Hello("c1", "i1", proto::kProtocolVersion + 1);
  const grpc::Status status = connection.End();
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_TRUE(Says(status, "protocol version: found"));
}

TEST_F(ClientStreamTest, Connect_ASecondClientWithOneIdIsRefusedAndTheFirstStays) {
  Connection first(federation_.get()), second(federation_.get());
  Join(&first);
  second.Hello("c1", "i2");
  EXPECT_EQ(second.End().error_code(), StatusCode::ALREADY_EXISTS);
  ASSERT_TRUE(first.Progress(7));
  fake_.WaitFor("message c1 i1 3 7");
  EXPECT_EQ(fake_.events(), (std::vector<std::string>{"join c1", "message c1 i1 3 7"}));
}

TEST_F(ClientStreamTest, Connect_TheSameInstanceReplacesItsOldStreamAndDoesNotLeave) {
  Connection second(federation_.get());
  {
    Connection first(federation_.get());
    Join(&first);
    Join(&second);
    EXPECT_EQ(first.End().error_code(), StatusCode::ABORTED);
  }
  ASSERT_TRUE(second.Progress(1));
  fake_.WaitFor("message c1 i1 3 1");
  EXPECT_EQ(fake_.events(), (std::vector<std::string>{"join c1", "join c1", "message c1 i1 3 1"}));
}

TEST_F(ClientStreamTest, Connect_ARefusedMessageEndsTheStreamWithItsStatus) {
  Connection connection(federation_.get());
  Join(&connection);
  fake_.message_answer = absl::InvalidArgumentError("evaluation of more rows than there are");
  connection.Progress(1);
  const grpc::Status status = connection.End();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Says(status, "more rows"));
  fake_.WaitFor("leave c1");
}

TEST_F(ClientStreamTest, Connect_ABrokenStreamLeavesOnce) {
  {
    Connection connection(federation_.get());
    Join(&connection);
  }
  fake_.WaitFor("leave c1");
  server_->Shutdown();
  EXPECT_EQ(fake_.events(), (std::vector<std::string>{"join c1", "leave c1"}));
}

TEST_F(ClientStreamTest, Connect_AnEndedStreamLeavesWithOk) {
  Connection connection(federation_.get());
  Join(&connection);
  connection.stream->WritesDone();
  EXPECT_TRUE(connection.End().ok());
  fake_.WaitFor("leave c1");
}

TEST_F(ClientStreamTest, Send_AClientThatDoesNotReadIsCutOff) {
  Connection slow(federation_.get());
  Join(&slow);
  proto::ServerMessage large;
  large.mutable_cancel()->set_reason(std::string(50'000, 'x'));
  const auto channel = fake_.Channel("c1");
  // More than the transport takes in and the queue holds.
  for (size_t i = 0; i < 20 * ClientStream::kMaxQueuedMessages; ++i) channel->Send(large);
  fake_.WaitFor("leave c1");
  EXPECT_FALSE(slow.End().ok());
}

TEST_F(ClientStreamTest, Send_AfterTheStreamIsGoneDoesNothing) {
  std::shared_ptr<ClientChannel> channel;
  {
    Connection connection(federation_.get());
    Join(&connection);
    channel = fake_.Channel("c1");
  }
  fake_.WaitFor("leave c1");
  channel->Send(CancelOf(1));
  channel->Close(absl::AbortedError("late"));
}

TEST_F(ClientStreamTest, Shutdown_TellsEveryClient) {
  Connection connection(federation_.get());
  Join(&connection);
  server_->Shutdown();
  const grpc::Status status = connection.End();
  EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Says(status, "shutting down"));
}

TEST_F(ClientStreamTest, Connect_ManyClientsNeedNoThreadEach) {
  constexpr int kClients = 300;
  std::vector<std::unique_ptr<Connection>> connections;
  for (int i = 0; i < kClients; ++i) {
    connections.push_back(std::make_unique<Connection>(federation_.get()));
    Join(connections.back().get(), "c" + std::to_string(i));
  }
  for (int i = 0; i < kClients; ++i) fake_.Channel("c" + std::to_string(i))->Send(CancelOf(i));
  for (int i = 0; i < kClients; ++i) {
    proto::ServerMessage message;
    ASSERT_TRUE(connections[i]->stream->Read(&message));
    EXPECT_EQ(message.cancel().round(), i);
  }
}

}  // namespace
}  // namespace weft::server
