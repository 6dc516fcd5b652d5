// Federation.Upload and Download over a real loopback channel.

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <tuple>

#include "server/net/testing/loopback.h"

namespace weft::server {
namespace {

using grpc::StatusCode;

// One upload's sending end.
struct Sender {
  explicit Sender(proto::Federation::Stub* stub) : writer(stub->Upload(&context, &reply)) {}

  void Start(const proto::TensorHeader& header) {
    proto::UploadMessage message;
    message.mutable_start()->mutable_update()->set_client_id("c1");
    *message.mutable_start()->mutable_header() = header;
    writer->Write(message);
  }
  void Send(const proto::Chunk& chunk) {
    proto::UploadMessage message;
    *message.mutable_chunk() = chunk;
    writer->Write(message);
  }
  grpc::Status End() {
    writer->WritesDone();
    return writer->Finish();
  }

  grpc::ClientContext context;
  proto::UploadReply reply;
  std::unique_ptr<grpc::ClientWriter<proto::UploadMessage>> writer;
};

class UploadStreamTest : public LoopbackTest {
 protected:
  UploadStreamTest() { std::tie(header_, chunks_) = Encoded(); }

  grpc::Status Upload() {
    Sender sender(federation_.get());
    sender.Start(header_);
    for (const proto::Chunk& chunk : chunks_) sender.Send(chunk);
    return sender.End();
  }
  void ExpectAbandoned(const std::string& code) {
    EXPECT_EQ(fake_.events().back(), "abandon 1 " + code);
    EXPECT_FALSE(fake_.received().has_value());
  }

  proto::TensorHeader header_;
  std::vector<proto::Chunk> chunks_;
};

TEST_F(UploadStreamTest, Upload_ArrivesWhole) {
  const grpc::Status status = Upload();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(fake_.received(), Values());
  EXPECT_EQ(fake_.events(), (std::vector<std::string>{"begin c1", "progress 1024", "progress 2048", "progress 3072",
                                                      "progress 4096", "finish 1"}));
}

TEST_F(UploadStreamTest, Upload_ArrivesAsEncoded) {
  for (const char* values : {"bf16", "f16", "int8", "int4", "topk"}) {
    SCOPED_TRACE(values);
    fake_.encoding.set_values(values);
    fake_.encoding.set_density(0.25);
    const auto update = EncodedUpdate::Encode(*fake_.adapter, fake_.encoding);
    ASSERT_TRUE(update.ok()) << update.status();
    UpdateEncoder encoder(*update, "", kChunkBytes);
    header_ = encoder.Header();
    chunks_.clear();
    for (proto::Chunk chunk; encoder.Next(&chunk);) chunks_.push_back(chunk);
    const grpc::Status status = Upload();
    ASSERT_TRUE(status.ok()) << status.error_message();
    const Adapter decoded = update->Decode();
    EXPECT_EQ(fake_.received(), std::vector<float>(decoded.values().begin(), decoded.values().end()));
  }
}

TEST_F(UploadStreamTest, Upload_AnotherEncodingThanThePlansIsRefused) {
  fake_.encoding.set_values("int8");
  const grpc::Status status = Upload();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Says(status, "int8"));
  ExpectAbandoned("INVALID_ARGUMENT");
}

TEST_F(UploadStreamTest, Upload_ACorruptedChunkIsRefused) {
  (*chunks_[2].mutable_data())[5] ^= 1;
  EXPECT_EQ(Upload().error_code(), StatusCode::INVALID_ARGUMENT);
  ExpectAbandoned("INVALID_ARGUMENT");
}

TEST_F(UploadStreamTest, Upload_AMissingTailIsRefused) {
  chunks_.pop_back();
  EXPECT_EQ(Upload().error_code(), StatusCode::INVALID_ARGUMENT);
  fake_.WaitFor("abandon 1 INVALID_ARGUMENT");
  ExpectAbandoned("INVALID_ARGUMENT");
}

TEST_F(UploadStreamTest, Upload_MoreThanItsLayoutIsRefused) {
  proto::Chunk surplus = chunks_.back();
  surplus.set_offset(header_.total_bytes());
  chunks_.push_back(surplus);
  EXPECT_EQ(Upload().error_code(), StatusCode::INVALID_ARGUMENT);
  ExpectAbandoned("INVALID_ARGUMENT");
}

TEST_F(UploadStreamTest, Upload_AnotherLayoutIsRefused) {
  header_.set_layout_hash(std::string(64, '0'));
  EXPECT_EQ(Upload().error_code(), StatusCode::INVALID_ARGUMENT);
  ExpectAbandoned("INVALID_ARGUMENT");
}

TEST_F(UploadStreamTest, Upload_ANanIsRefused) {
  auto adapter = std::make_shared<Adapter>(fake_.adapter->Clone());
  adapter->values()[100] = std::numeric_limits<float>::quiet_NaN();
  fake_.adapter = adapter;
  std::tie(header_, chunks_) = Encoded();
  const grpc::Status status = Upload();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Says(status, "a.lora_A.weight"));
  ExpectAbandoned("INVALID_ARGUMENT");
}

TEST_F(UploadStreamTest, Upload_AChunkBeforeTheStartIsRefused) {
  Sender sender(federation_.get());
  sender.Send(chunks_[0]);
  const grpc::Status status = sender.End();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Says(status, "expected the start"));
  EXPECT_TRUE(fake_.events().empty());
}

TEST_F(UploadStreamTest, Upload_ASecondStartIsRefused) {
  Sender sender(federation_.get());
  sender.Start(header_);
  sender.Send(chunks_[0]);
  sender.Start(header_);
  const grpc::Status status = sender.End();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Says(status, "chunks only"));
  ExpectAbandoned("INVALID_ARGUMENT");
}

TEST_F(UploadStreamTest, Upload_NothingAtAllIsRefused) {
  const grpc::Status status = Sender(federation_.get()).End();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Says(status, "before its start"));
}

TEST_F(UploadStreamTest, Upload_AMessageOverTheLimitIsRefused) {
  Sender sender(federation_.get());
  sender.Start(header_);
  proto::Chunk large;
  large.set_data(std::string(2 * kMaxMessageBytes, 'x'));
  sender.Send(large);
  const grpc::Status status = sender.End();
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Says(status, std::to_string(kMaxMessageBytes)));
  fake_.WaitFor("abandon 1 CANCELLED");
}

TEST_F(UploadStreamTest, Upload_AStartTheCoordinatorRefusesKeepsItsStatus) {
  for (const absl::Status& answer :
       {absl::FailedPreconditionError("not selected"), absl::AbortedError("round over"),
        absl::AlreadyExistsError("it is in"), absl::InvalidArgumentError("zero examples")}) {
    fake_.begin_answer = answer;
    const grpc::Status status = Upload();
    EXPECT_EQ(static_cast<int>(status.error_code()), static_cast<int>(answer.code()));
    EXPECT_EQ(status.error_message(), answer.message());
  }
  for (const std::string& event : fake_.events()) EXPECT_EQ(event, "begin c1");
}

TEST_F(UploadStreamTest, Upload_NoLongerWantedEndsItEarly) {
  fake_.progress_answer = absl::AbortedError("round 3 is over");
  const grpc::Status status = Upload();
  EXPECT_EQ(status.error_code(), StatusCode::ABORTED);
  EXPECT_TRUE(Says(status, "round 3 is over"));
  ExpectAbandoned("ABORTED");
}

TEST_F(UploadStreamTest, Upload_AnUpdateTheRuleRefusesKeepsItsStatus) {
  fake_.finish_answer = absl::InvalidArgumentError("norm of a.lora_A.weight");
  EXPECT_EQ(Upload().error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(fake_.events().back(), "finish 1");
}

TEST_F(UploadStreamTest, Upload_BrokenOffIsAbandoned) {
  Sender sender(federation_.get());
  sender.Start(header_);
  sender.Send(chunks_[0]);
  fake_.WaitFor("progress 1024");
  sender.context.TryCancel();
  fake_.WaitFor("abandon 1 CANCELLED");
  EXPECT_EQ(sender.writer->Finish().error_code(), StatusCode::CANCELLED);
}

TEST_F(UploadStreamTest, Upload_AStalledOneIsAbandoned) {
  Server::Options options;
  options.upload_stall_limit = absl::Milliseconds(20);
  Start(options);
  Sender sender(federation_.get());
  sender.Start(header_);
  sender.Send(chunks_[0]);
  fake_.WaitFor("abandon 1 ABORTED");
  EXPECT_FALSE(sender.writer->Finish().ok());
}

TEST_F(UploadStreamTest, Download_ArrivesWhole) {
  grpc::ClientContext context;
  proto::DownloadRequest request;
  request.set_job_id("job-1");
  request.set_round(3);
  const auto reader = federation_->Download(&context, request);
  proto::TensorMessage message;
  ASSERT_TRUE(reader->Read(&message));
  ASSERT_TRUE(message.has_header());
  auto decoder = AdapterDecoder::Create(message.header(), layout_);
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  while (reader->Read(&message)) ASSERT_TRUE(decoder->Add(message.chunk()).ok());
  ASSERT_TRUE(reader->Finish().ok());
  const auto adapter = (*std::move(decoder)).Finish();
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(std::vector<float>(adapter->values().begin(), adapter->values().end()), Values());
  EXPECT_EQ(fake_.events(), std::vector<std::string>{"download job-1 3"});
}

TEST_F(UploadStreamTest, Download_OfSomeRolesCarriesOnlyTheirTensors) {
  fake_.roles = {"lora_b"};
  grpc::ClientContext context;
  const auto reader = federation_->Download(&context, {});
  proto::TensorMessage message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.header().total_bytes(), 64u * 8 * 4);
  EXPECT_EQ(message.header().layout_hash(), layout_->hash());
  Adapter held(layout_);
  auto decoder = StateDecoder::Create(message.header(), {.job_layout = layout_, .held = &held});
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  while (reader->Read(&message)) ASSERT_TRUE(decoder->Add(message.chunk()).ok());
  ASSERT_TRUE(reader->Finish().ok());
  const auto state = (*std::move(decoder)).Finish();
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->values()[0], 0);
  EXPECT_EQ(state->values()[8 * 64 + 5], fake_.adapter->values()[8 * 64 + 5]);
}

TEST_F(UploadStreamTest, Download_OfAStepOfTheBaseSaysHowItIsLaidOut) {
  fake_.adapter = std::make_shared<const Adapter>(
      *Layout::Create({{"a.base_A.weight", "base_a", {3, 64}}, {"a.base_B.weight", "base_b", {64, 3}}}));
  grpc::ClientContext context;
  proto::DownloadRequest request;
  request.set_job_id("job-1");
  request.set_round(2);
  request.set_base_step(true);
  const auto reader = federation_->Download(&context, request);
  proto::TensorMessage message;
  ASSERT_TRUE(reader->Read(&message));
  auto decoder = StateDecoder::Create(message.header(), {.job_layout = layout_, .base_step = true});
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  while (reader->Read(&message)) ASSERT_TRUE(decoder->Add(message.chunk()).ok());
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(fake_.events(), std::vector<std::string>{"download job-1 2 step"});
}

TEST_F(UploadStreamTest, Download_KeepsTheCoordinatorsStatus) {
  fake_.download_answer = absl::NotFoundError("no job \"x\"");
  grpc::ClientContext context;
  const auto reader = federation_->Download(&context, {});
  proto::TensorMessage message;
  EXPECT_FALSE(reader->Read(&message));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND);
  EXPECT_TRUE(Says(status, "no job"));
}

}  // namespace
}  // namespace weft::server
