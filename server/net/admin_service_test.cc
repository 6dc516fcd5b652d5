// Admin over a real loopback channel.

#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "server/net/testing/loopback.h"

namespace weft::server {
namespace {

using grpc::StatusCode;

// One submit's sending end.
struct Submitter {
  explicit Submitter(proto::Admin::Stub* stub) : writer(stub->Submit(&context, &reply)) {}

  void Config() {
    proto::SubmitMessage message;
    message.mutable_config()->set_name("first");
    writer->Write(message);
  }
  void Header(const proto::TensorHeader& header) {
    proto::SubmitMessage message;
    *message.mutable_warm_start() = header;
    writer->Write(message);
  }
  void Chunk(const proto::Chunk& chunk) {
    proto::SubmitMessage message;
    *message.mutable_chunk() = chunk;
    writer->Write(message);
  }
  grpc::Status End() {
    writer->WritesDone();
    return writer->Finish();
  }

  grpc::ClientContext context;
  proto::SubmitReply reply;
  std::unique_ptr<grpc::ClientWriter<proto::SubmitMessage>> writer;
};

class AdminServiceTest : public LoopbackTest {
 protected:
  std::unique_ptr<grpc::ClientReader<proto::CoordinatorStatus>> Watch(grpc::ClientContext* context,
                                                                      const std::string& job_id) {
    proto::StatusRequest request;
    request.set_job_id(job_id);
    return admin_->Watch(context, request);
  }
};

TEST_F(AdminServiceTest, Submit_QueuesTheJob) {
  Submitter submitter(admin_.get());
  submitter.Config();
  const grpc::Status status = submitter.End();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(submitter.reply.job_id(), "job-1");
  EXPECT_EQ(fake_.events(), std::vector<std::string>{"submit first"});
}

TEST_F(AdminServiceTest, Submit_CarriesAWarmStart) {
  const auto [header, chunks] = Encoded();
  Submitter submitter(admin_.get());
  submitter.Config();
  submitter.Header(header);
  for (const proto::Chunk& chunk : chunks) submitter.Chunk(chunk);
  const grpc::Status status = submitter.End();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(fake_.events(), std::vector<std::string>{"submit first warm"});
  EXPECT_EQ(fake_.received(), Values());
}

TEST_F(AdminServiceTest, Submit_KeepsTheCoordinatorsStatus) {
  fake_.submit_answer = absl::InvalidArgumentError("aggregator.name: found \"fedavgg\", expected fedavg");
  Submitter submitter(admin_.get());
  submitter.Config();
  const grpc::Status status = submitter.End();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Says(status, "expected fedavg"));
}

TEST_F(AdminServiceTest, Submit_NothingAtAllIsRefused) {
  const grpc::Status status = Submitter(admin_.get()).End();
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Says(status, "before the job config"));
}

TEST_F(AdminServiceTest, Submit_MessagesOutOfOrderAreRefused) {
  const auto [header, chunks] = Encoded();
  {
    Submitter submitter(admin_.get());
    submitter.Header(header);
    EXPECT_EQ(submitter.End().error_code(), StatusCode::INVALID_ARGUMENT);
  }
  {
    Submitter submitter(admin_.get());
    submitter.Config();
    submitter.Chunk(chunks[0]);
    EXPECT_TRUE(Says(submitter.End(), "found a chunk"));
  }
  {
    Submitter submitter(admin_.get());
    submitter.Config();
    submitter.Config();
    EXPECT_TRUE(Says(submitter.End(), "second job config"));
  }
  {
    Submitter submitter(admin_.get());
    submitter.Config();
    submitter.Header(header);
    submitter.Header(header);
    EXPECT_EQ(submitter.End().error_code(), StatusCode::INVALID_ARGUMENT);
  }
  {
    Submitter submitter(admin_.get());
    submitter.writer->Write({});
    EXPECT_TRUE(Says(submitter.End(), "unknown kind"));
  }
  EXPECT_TRUE(fake_.events().empty());
}

TEST_F(AdminServiceTest, Submit_ABadWarmStartIsRefused) {
  auto [header, chunks] = Encoded();
  {
    Submitter submitter(admin_.get());
    submitter.Config();
    submitter.Header(header);
    submitter.Chunk(chunks[0]);
    EXPECT_EQ(submitter.End().error_code(), StatusCode::INVALID_ARGUMENT);
  }
  chunks[1].set_crc32c(chunks[1].crc32c() + 1);
  {
    Submitter submitter(admin_.get());
    submitter.Config();
    submitter.Header(header);
    for (const proto::Chunk& chunk : chunks) submitter.Chunk(chunk);
    EXPECT_EQ(submitter.End().error_code(), StatusCode::INVALID_ARGUMENT);
  }
  fake_.layout_answer = absl::InvalidArgumentError("base.config_json: not JSON");
  {
    Submitter submitter(admin_.get());
    submitter.Config();
    submitter.Header(header);
    EXPECT_TRUE(Says(submitter.End(), "not JSON"));
  }
  EXPECT_TRUE(fake_.events().empty());
}

TEST_F(AdminServiceTest, GetStatus_AnswersOrKeepsTheStatus) {
  proto::StatusRequest request;
  request.set_job_id("job-1");
  proto::CoordinatorStatus reply;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(admin_->GetStatus(&context, request, &reply).ok());
    EXPECT_EQ(reply.jobs(0).job_id(), "job-1");
  }
  fake_.status_answer = absl::NotFoundError("no job \"job-1\"");
  grpc::ClientContext context;
  EXPECT_EQ(admin_->GetStatus(&context, request, &reply).error_code(), StatusCode::NOT_FOUND);
}

TEST_F(AdminServiceTest, Stop_AnswersOrKeepsTheStatus) {
  proto::StopRequest request;
  request.set_job_id("job-1");
  proto::StopReply reply;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(admin_->Stop(&context, request, &reply).ok());
    EXPECT_EQ(reply.job().state(), proto::STOPPED);
  }
  fake_.stop_answer = absl::FailedPreconditionError("already ended");
  grpc::ClientContext context;
  EXPECT_EQ(admin_->Stop(&context, request, &reply).error_code(), StatusCode::FAILED_PRECONDITION);
}

TEST_F(AdminServiceTest, Watch_SendsAtOnceThenAtEveryChangeUntilTheJobEnds) {
  grpc::ClientContext context;
  const auto reader = Watch(&context, "job-1");
  proto::CoordinatorStatus status;
  ASSERT_TRUE(reader->Read(&status));
  EXPECT_EQ(status.jobs(0).state(), proto::RUNNING);
  fake_.Change(proto::WAITING);
  ASSERT_TRUE(reader->Read(&status));
  EXPECT_EQ(status.jobs(0).state(), proto::WAITING);
  fake_.Change(proto::FINISHED);
  ASSERT_TRUE(reader->Read(&status));
  EXPECT_EQ(status.jobs(0).state(), proto::FINISHED);
  EXPECT_FALSE(reader->Read(&status));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(AdminServiceTest, Watch_WithoutAJobGoesOnUntilShutdown) {
  fake_.Change(proto::FINISHED);
  grpc::ClientContext context;
  const auto reader = Watch(&context, "");
  proto::CoordinatorStatus status;
  ASSERT_TRUE(reader->Read(&status));
  std::thread stopper([this] { server_->Shutdown(); });
  while (reader->Read(&status)) continue;
  const grpc::Status end = reader->Finish();
  stopper.join();
  EXPECT_EQ(end.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Says(end, "shutting down"));
}

TEST_F(AdminServiceTest, Watch_AnUnknownJobIsRefused) {
  fake_.status_answer = absl::NotFoundError("no job \"x\"");
  grpc::ClientContext context;
  const auto reader = Watch(&context, "x");
  proto::CoordinatorStatus status;
  EXPECT_FALSE(reader->Read(&status));
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::NOT_FOUND);
}

TEST_F(AdminServiceTest, Watch_AWatcherThatGoesAwayHoldsNothingUp) {
  grpc::ClientContext gone;
  const auto reader = Watch(&gone, "");
  proto::CoordinatorStatus status;
  ASSERT_TRUE(reader->Read(&status));
  gone.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  fake_.Change(proto::WAITING);
  grpc::ClientContext context;
  ASSERT_TRUE(Watch(&context, "")->Read(&status));
  context.TryCancel();
  server_->Shutdown();
}

TEST_F(AdminServiceTest, Export_SendsInfoThenTheAdapter) {
  grpc::ClientContext context;
  proto::ExportRequest request;
  request.set_job_id("job-1");
  request.set_which("best");
  const auto reader = admin_->Export(&context, request);
  proto::ExportMessage message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.info().job_id(), "job-1/best");
  ASSERT_TRUE(reader->Read(&message));
  auto decoder = AdapterDecoder::Create(message.header(), layout_);
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  while (reader->Read(&message)) ASSERT_TRUE(decoder->Add(message.chunk()).ok());
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE((*std::move(decoder)).Finish().ok());
}

TEST_F(AdminServiceTest, Export_KeepsTheCoordinatorsStatus) {
  fake_.export_answer = absl::NotFoundError("round 3 is not kept; best is 5");
  grpc::ClientContext context;
  const auto reader = admin_->Export(&context, {});
  proto::ExportMessage message;
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace weft::server
