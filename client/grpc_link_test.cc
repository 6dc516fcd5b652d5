#include "client/grpc_link.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "adapters/codec.h"
#include "adapters/components.h"
#include "client/testing/fake_federation.h"

namespace weft {
namespace {

std::shared_ptr<const Layout> TestLayout() {
  return *Layout::Create(
      {{"x.lora_A.weight", "lora_a", {2, 300}, 0, 0}, {"x.lora_B.weight", "lora_b", {300, 2}, 0, 0}});
}

Adapter TestAdapter(const std::shared_ptr<const Layout>& layout) {
  Adapter adapter(layout);
  float next = 0;
  for (float& value : adapter.values()) value = next += 0.5f;
  return adapter;
}

bool Always(uint64_t, uint64_t) { return true; }

class GrpcLinkTest : public testing::Test {
 protected:
  GrpcLinkTest() {
    federation_.connect = [this](grpc::ServerContext*, FakeFederation::Stream* stream) { return Serve(stream); };
  }

  std::unique_ptr<Link> MakeLink() {
    GrpcLink::Options options;
    options.address = federation_.address();
    options.stall_timeout = stall_timeout_;
    options.close_grace = close_grace_;
    return *GrpcLink::Create(options);
  }
  std::unique_ptr<Link> Connected() {
    std::unique_ptr<Link> link = MakeLink();
    const auto welcome = link->Connect(proto::Hello());
    EXPECT_TRUE(welcome.ok()) << welcome.status();
    return link;
  }

  // Welcomes, then waits for the client to leave and keeps what it says.
  grpc::Status Serve(FakeFederation::Stream* stream) {
    proto::ClientMessage up;
    if (!stream->Read(&up)) return grpc::Status::OK;
    hello_ = up.hello();
    proto::ServerMessage down;
    down.mutable_welcome()->set_version("test");
    down.mutable_welcome()->set_chunk_bytes(chunk_bytes_);
    down.mutable_welcome()->set_max_message_bytes(max_message_bytes_);
    stream->Write(down);
    down.mutable_job_ended()->set_job_id("j");
    stream->Write(down);
    while (stream->Read(&up)) received_.push_back(up);
    return end_;
  }

  // Sends `adapter`, after `spoil` had its way with each message.
  void ServeDownload(const Adapter& adapter, std::function<bool(int index, proto::TensorMessage*)> spoil) {
    // A copy of its own: the call may outlive the test's body when its client has left.
    federation_.download = [kept = std::make_shared<const Adapter>(adapter.Clone()), spoil](
                               grpc::ServerContext*, grpc::ServerWriter<proto::TensorMessage>* writer) {
      AdapterEncoder encoder(*kept, 1000);
      proto::TensorMessage message;
      *message.mutable_header() = encoder.Header();
      for (int index = 0; index == 0 || encoder.Next(message.mutable_chunk()); ++index) {
        if (spoil(index, &message)) writer->Write(message);
      }
      return grpc::Status::OK;
    };
  }
  absl::StatusOr<Adapter> Download(Link& link) {
    proto::DownloadRequest request;
    request.set_job_id("j");
    request.set_round(4);
    return link.Download(request, nullptr, layout_, Always);
  }

  const std::shared_ptr<const Layout> layout_ = TestLayout();
  const Adapter adapter_ = TestAdapter(layout_);
  const EncodedUpdate update_ = EncodedUpdate::View(adapter_);
  uint64_t chunk_bytes_ = 1000;
  uint64_t max_message_bytes_ = 1 << 20;
  absl::Duration stall_timeout_ = absl::Minutes(1);
  absl::Duration close_grace_;  // none: most tests have no thread in Receive
  grpc::Status end_;
  proto::Hello hello_;
  std::vector<proto::ClientMessage> received_;
  FakeFederation federation_;
};

TEST_F(GrpcLinkTest, Create_RefusesAnotherMachineWithoutInsecure) {
  EXPECT_EQ(GrpcLink::Create({.address = "192.0.2.1:7400"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(GrpcLink::Create({.address = "192.0.2.1:7400", .insecure = true}).ok());
}

TEST_F(GrpcLinkTest, Create_RefusesWhatIsNoAddress) {
  EXPECT_EQ(GrpcLink::Create({.address = "nowhere"}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GrpcLinkTest, Connect_SaysHelloAndGetsTheWelcome) {
  std::unique_ptr<Link> link = MakeLink();
  proto::Hello hello;
  hello.set_client_id("a");
  const auto welcome = link->Connect(hello);
  ASSERT_TRUE(welcome.ok()) << welcome.status();
  EXPECT_EQ(welcome->version(), "test");
  EXPECT_EQ(hello_.client_id(), "a");
  const auto message = link->Receive();
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->job_ended().job_id(), "j");
}

TEST_F(GrpcLinkTest, Connect_NobodyThere) {
  federation_.Stop();
  std::unique_ptr<Link> link = MakeLink();
  const absl::Status status = link->Connect(proto::Hello()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::StrContains(status.message(), "no coordinator answers at 127.0.0.1")) << status;
}

TEST_F(GrpcLinkTest, Connect_RefusalKeepsCodeAndMessage) {
  federation_.connect = [](grpc::ServerContext*, FakeFederation::Stream*) {
    return grpc::Status(grpc::StatusCode::ALREADY_EXISTS, "id in use");
  };
  EXPECT_EQ(MakeLink()->Connect(proto::Hello()).status(), absl::AlreadyExistsError("id in use"));
}

TEST_F(GrpcLinkTest, Connect_AnotherMessageThanWelcome) {
  federation_.connect = [](grpc::ServerContext*, FakeFederation::Stream* stream) {
    proto::ServerMessage message;
    message.mutable_cancel();
    stream->Write(message);
    return grpc::Status::OK;
  };
  EXPECT_EQ(MakeLink()->Connect(proto::Hello()).status().code(), absl::StatusCode::kInternal);
}

TEST_F(GrpcLinkTest, Connect_CoordinatorThatSaysNothing) {
  stall_timeout_ = absl::Milliseconds(20);
  federation_.connect = [](grpc::ServerContext*, FakeFederation::Stream* stream) {
    proto::ClientMessage up;
    while (stream->Read(&up)) {
    }
    return grpc::Status::OK;
  };
  const absl::Status status = MakeLink()->Connect(proto::Hello()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(absl::StrContains(status.message(), "nothing moved")) << status;
}

TEST_F(GrpcLinkTest, Receive_EndedStreamIsUnavailable) {
  federation_.connect = [](grpc::ServerContext*, FakeFederation::Stream* stream) {
    proto::ServerMessage message;
    message.mutable_welcome()->set_max_message_bytes(1000);
    stream->Write(message);
    return grpc::Status::OK;
  };
  std::unique_ptr<Link> link = Connected();
  EXPECT_EQ(link->Receive().status().code(), absl::StatusCode::kUnavailable);
  proto::ClientMessage message;
  message.mutable_goodbye();
  EXPECT_EQ(link->Send(message).code(), absl::StatusCode::kUnavailable);
}

TEST_F(GrpcLinkTest, Receive_CoordinatorGone) {
  std::unique_ptr<Link> link = Connected();
  ASSERT_TRUE(link->Receive().ok());
  federation_.Stop();
  EXPECT_FALSE(link->Receive().ok());
}

TEST_F(GrpcLinkTest, Send_ReachesTheCoordinatorEvenBeforeClose) {
  close_grace_ = absl::Minutes(1);
  std::unique_ptr<Link> link = Connected();
  ASSERT_TRUE(link->Receive().ok());
  std::thread receiver([&] { EXPECT_EQ(link->Receive().status().code(), absl::StatusCode::kCancelled); });
  proto::ClientMessage message;
  message.mutable_goodbye()->set_reason("done");
  EXPECT_TRUE(link->Send(message).ok());
  link->Close();
  receiver.join();
  federation_.Stop();
  ASSERT_EQ(received_.size(), 1u);
  EXPECT_EQ(received_[0].goodbye().reason(), "done");
}

TEST_F(GrpcLinkTest, Send_MessageOverTheLimit) {
  max_message_bytes_ = 100;
  std::unique_ptr<Link> link = Connected();
  proto::ClientMessage message;
  message.mutable_goodbye()->set_reason(std::string(200, 'x'));
  const absl::Status status = link->Send(message);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(absl::StrContains(status.message(), "at most 100")) << status;
}

TEST_F(GrpcLinkTest, Close_MakesABlockedConnectReturn) {
  std::promise<void> called;
  federation_.connect = [&](grpc::ServerContext*, FakeFederation::Stream* stream) {
    proto::ClientMessage up;
    stream->Read(&up);
    called.set_value();
    stream->Read(&up);
    return grpc::Status::OK;
  };
  std::unique_ptr<Link> link = MakeLink();
  std::thread closer([&] {
    called.get_future().wait();
    link->Close();
  });
  EXPECT_EQ(link->Connect(proto::Hello()).status().code(), absl::StatusCode::kCancelled);
  closer.join();
}

TEST_F(GrpcLinkTest, Close_CallsAfterItAreCancelled) {
  std::unique_ptr<Link> link = Connected();
  link->Close();
  link->Close();
  proto::ClientMessage message;
  message.mutable_goodbye();
  EXPECT_EQ(link->Send(message).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Download(*link).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(link->Upload(proto::Update(), update_, "", Always).code(), absl::StatusCode::kCancelled);
}

TEST_F(GrpcLinkTest, Download_GivesTheSameBits) {
  ServeDownload(adapter_, [](int, proto::TensorMessage*) { return true; });
  std::unique_ptr<Link> link = Connected();
  std::vector<uint64_t> done;
  const auto adapter = link->Download(proto::DownloadRequest(), nullptr, layout_, [&](uint64_t bytes, uint64_t total) {
    EXPECT_EQ(total, 4800u);
    done.push_back(bytes);
    return true;
  });
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(adapter->ContentHash(), adapter_.ContentHash());
  EXPECT_EQ(done, (std::vector<uint64_t>{0, 1000, 2000, 3000, 4000, 4800}));
}

TEST_F(GrpcLinkTest, Download_RolesThatAreHeldAreNotSentAgain) {
  Adapter held = adapter_.Clone();
  for (float& value : held.values()) value = -value;
  federation_.download = [this](grpc::ServerContext*, grpc::ServerWriter<proto::TensorMessage>* writer) {
    StateEncoder encoder(adapter_, {.layout = layout_, .job_layout = layout_, .roles = {"lora_b"}, .chunk_bytes = 999});
    proto::TensorMessage message;
    *message.mutable_header() = encoder.Header();
    do writer->Write(message);
    while (encoder.Next(message.mutable_chunk()));
    return grpc::Status::OK;
  };
  std::unique_ptr<Link> link = Connected();
  proto::DownloadRequest request;
  request.set_have_round(2);
  const auto state = link->Download(request, &held, layout_, Always);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->values()[0], held.values()[0]);
  EXPECT_EQ(state->values()[600], adapter_.values()[600]);
  EXPECT_EQ(Download(*link).status().code(), absl::StatusCode::kDataLoss);  // held by nobody
}

TEST_F(GrpcLinkTest, Download_AStepOfTheBase) {
  const auto layout = *Layout::Create({{"m.base_A.weight", "base_a", {1, 3}}, {"m.base_B.weight", "base_b", {2, 1}}});
  const Adapter step = TestAdapter(layout);
  federation_.download = [&](grpc::ServerContext*, grpc::ServerWriter<proto::TensorMessage>* writer) {
    StateEncoder encoder(step, {.layout = layout, .job_layout = layout_, .roles = {}, .chunk_bytes = 999});
    proto::TensorMessage message;
    *message.mutable_header() = encoder.Header();
    do writer->Write(message);
    while (encoder.Next(message.mutable_chunk()));
    return grpc::Status::OK;
  };
  proto::DownloadRequest request;
  request.set_base_step(true);
  const auto state = Connected()->Download(request, nullptr, layout_, Always);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->ContentHash(), step.ContentHash());
}

TEST_F(GrpcLinkTest, Download_DamagedChunk) {
  ServeDownload(adapter_, [](int index, proto::TensorMessage* message) {
    if (index == 3) message->mutable_chunk()->mutable_data()->at(7) ^= 1;
    return true;
  });
  const absl::Status status = Download(*Connected()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(absl::StrContains(status.message(), "download of job j round 4")) << status;
}

TEST_F(GrpcLinkTest, Download_MissingTail) {
  ServeDownload(adapter_, [](int index, proto::TensorMessage*) { return index < 5; });
  EXPECT_EQ(Download(*Connected()).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(GrpcLinkTest, Download_MissingHeader) {
  ServeDownload(adapter_, [](int index, proto::TensorMessage*) { return index > 0; });
  EXPECT_EQ(Download(*Connected()).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(GrpcLinkTest, Download_NothingAtAll) {
  ServeDownload(adapter_, [](int, proto::TensorMessage*) { return false; });
  EXPECT_EQ(Download(*Connected()).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(GrpcLinkTest, Download_AnotherLayout) {
  const auto layout = *Layout::Create({{"y", "lora_a", {1200}, 0, 0}});
  const Adapter other(layout);
  ServeDownload(other, [](int, proto::TensorMessage*) { return true; });
  EXPECT_EQ(Download(*Connected()).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(GrpcLinkTest, Download_RefusalKeepsCodeAndMessage) {
  federation_.download = [](grpc::ServerContext*, grpc::ServerWriter<proto::TensorMessage>*) {
    return grpc::Status(grpc::StatusCode::ABORTED, "round is over");
  };
  EXPECT_EQ(Download(*Connected()).status(), absl::AbortedError("round is over"));
}

TEST_F(GrpcLinkTest, Download_CancelledByProgress) {
  ServeDownload(adapter_, [](int, proto::TensorMessage*) { return true; });
  std::unique_ptr<Link> link = Connected();
  const auto adapter =
      link->Download(proto::DownloadRequest(), nullptr, layout_, [](uint64_t done, uint64_t) { return done < 2000; });
  EXPECT_EQ(adapter.status().code(), absl::StatusCode::kCancelled);
}

TEST_F(GrpcLinkTest, Download_Stalled) {
  stall_timeout_ = absl::Milliseconds(20);
  federation_.download = [](grpc::ServerContext* context, grpc::ServerWriter<proto::TensorMessage>*) {
    while (!context->IsCancelled()) std::this_thread::yield();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Download(*Connected()).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(GrpcLinkTest, Upload_GivesTheSameBitsInChunksThatFit) {
  max_message_bytes_ = 500;
  proto::EncodingConfig int8;
  int8.set_values("int8");
  const std::string components = ComponentBits({true, false, false, true});
  const auto packed = *PackedLayout(*layout_, components);
  const EncodedUpdate sent = *EncodedUpdate::Encode(Pack(adapter_, components, packed), int8);
  std::optional<EncodedUpdate> received;
  size_t largest = 0;
  federation_.upload = [&](grpc::ServerContext*, grpc::ServerReader<proto::UploadMessage>* reader) {
    proto::UploadMessage message;
    reader->Read(&message);
    EXPECT_EQ(message.start().update().round(), 3);
    UpdateDecoder decoder =
        *UpdateDecoder::Create(message.start().header(), {.sent = layout_, .encoding = int8, .keep_components = 2});
    while (reader->Read(&message)) {
      largest = std::max(largest, message.ByteSizeLong());
      EXPECT_TRUE(decoder.Add(message.chunk()).ok());
    }
    received = *std::move(decoder).Finish();
    return grpc::Status::OK;
  };
  proto::Update update;
  update.set_round(3);
  uint64_t done = 0;
  const absl::Status status = Connected()->Upload(update, sent, components, [&](uint64_t bytes, uint64_t) {
    done = bytes;
    return true;
  });
  EXPECT_TRUE(status.ok()) << status;
  ASSERT_TRUE(received.has_value());
  EXPECT_EQ(received->Decode().ContentHash(), Unpack(sent.Decode(), components, layout_).ContentHash());
  EXPECT_EQ(done, sent.bytes().size());
  EXPECT_LE(largest, 500u);
}

TEST_F(GrpcLinkTest, Upload_RefusalKeepsCodeAndMessage) {
  federation_.upload = [](grpc::ServerContext*, grpc::ServerReader<proto::UploadMessage>*) {
    return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "not asked for");
  };
  EXPECT_EQ(Connected()->Upload(proto::Update(), update_, "", Always), absl::FailedPreconditionError("not asked for"));
}

TEST_F(GrpcLinkTest, Upload_CancelledByProgress) {
  federation_.upload = [](grpc::ServerContext*, grpc::ServerReader<proto::UploadMessage>* reader) {
    proto::UploadMessage message;
    while (reader->Read(&message)) {
    }
    return grpc::Status::OK;
  };
  const absl::Status status =
      Connected()->Upload(proto::Update(), update_, "", [](uint64_t done, uint64_t) { return done < 2000; });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
}

TEST_F(GrpcLinkTest, Upload_Stalled) {
  stall_timeout_ = absl::Milliseconds(20);
  federation_.upload = [](grpc::ServerContext* context, grpc::ServerReader<proto::UploadMessage>*) {
    while (!context->IsCancelled()) std::this_thread::yield();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Connected()->Upload(proto::Update(), update_, "", Always).code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace weft
