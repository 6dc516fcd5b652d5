#include "cli/admin_client.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <optional>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "adapters/codec.h"
#include "adapters/forms/form.h"
#include "common/dial_address.h"
#include "common/status_macros.h"

namespace weft::cli {
namespace {

// Of calls that move no tensors.
constexpr std::chrono::seconds kCallTimeout(30);
constexpr int kKeepaliveMs = 20'000;
// Below the smallest max_message_bytes a coordinator can be set to.
constexpr uint64_t kChunkBytes = 32 << 10;

// From the job's config alone, as every party does.
absl::StatusOr<std::shared_ptr<const Layout>> LayoutOf(const proto::JobConfig& config) {
  WEFT_ASSIGN_OR_RETURN(const BaseDescription base, DescribeBase(config.base().config_json()));
  return MakeLayout(config.adapter(), config.task(), base);
}

// Puts an export together from its messages: info, header, chunks.
class ExportReader {
 public:
  absl::Status Add(const proto::ExportMessage& message) {
    if (message.has_info() && !info_.has_value()) {
      info_ = message.info();
    } else if (message.has_header() && info_.has_value() && !decoder_.has_value()) {
      WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, LayoutOf(info_->config()));
      WEFT_ASSIGN_OR_RETURN(decoder_, AdapterDecoder::Create(message.header(), std::move(layout)));
    } else if (message.has_chunk() && decoder_.has_value()) {
      return decoder_->Add(message.chunk());
    } else {
      return absl::DataLossError("expected info, then a header, then chunks");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<AdminClient::Exported> Finish() && {
    if (!decoder_.has_value()) return absl::DataLossError("expected info, a header and chunks, found less");
    WEFT_ASSIGN_OR_RETURN(Adapter adapter, std::move(*decoder_).Finish());
    return AdminClient::Exported{*std::move(info_), std::move(adapter)};
  }

 private:
  std::optional<proto::ExportInfo> info_;
  std::optional<AdapterDecoder> decoder_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<AdminClient>> AdminClient::Create(const std::string& address, bool insecure) {
  WEFT_ASSIGN_OR_RETURN(const DialAddress dial, DialAddress::Parse(address, "--coordinator", insecure));
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A watch that lost its coordinator tries again this often.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetMaxReceiveMessageSize(-1);  // status and chunks are bounded by what the coordinator is configured to
  if (dial.loopback) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return absl::WrapUnique(new AdminClient(address, proto::Admin::NewStub(grpc::CreateCustomChannel(
                                                       address, grpc::InsecureChannelCredentials(), arguments))));
}

AdminClient::AdminClient(std::string address, std::unique_ptr<proto::Admin::Stub> stub)
    : address_(std::move(address)), stub_(std::move(stub)) {}

absl::StatusOr<std::string> AdminClient::Submit(const proto::JobConfig& config, const Adapter* warm_start) {
  grpc::ClientContext context;
  proto::SubmitReply reply;
  const std::unique_ptr<grpc::ClientWriter<proto::SubmitMessage>> writer = stub_->Submit(&context, &reply);
  proto::SubmitMessage message;
  *message.mutable_config() = config;
  bool open = writer->Write(message);
  if (warm_start != nullptr) {
    AdapterEncoder encoder(*warm_start, kChunkBytes);
    *message.mutable_warm_start() = encoder.Header();
    open = open && writer->Write(message);
    while (open && encoder.Next(message.mutable_chunk())) open = writer->Write(message);
  }
  writer->WritesDone();
  WEFT_RETURN_IF_ERROR(StatusOf(writer->Finish()));
  return reply.job_id();
}

absl::StatusOr<proto::CoordinatorStatus> AdminClient::GetStatus(const std::string& job_id) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCallTimeout);
  proto::StatusRequest request;
  request.set_job_id(job_id);
  proto::CoordinatorStatus reply;
  WEFT_RETURN_IF_ERROR(StatusOf(stub_->GetStatus(&context, request, &reply)));
  return reply;
}

absl::Status AdminClient::Watch(const std::string& job_id,
                                const std::function<void(const proto::CoordinatorStatus&)>& show) {
  grpc::ClientContext context;
  proto::StatusRequest request;
  request.set_job_id(job_id);
  const std::unique_ptr<grpc::ClientReader<proto::CoordinatorStatus>> reader = stub_->Watch(&context, request);
  proto::CoordinatorStatus status;
  while (reader->Read(&status)) show(status);
  return StatusOf(reader->Finish());
}

absl::StatusOr<proto::JobStatus> AdminClient::Stop(const std::string& job_id) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCallTimeout);
  proto::StopRequest request;
  request.set_job_id(job_id);
  proto::StopReply reply;
  WEFT_RETURN_IF_ERROR(StatusOf(stub_->Stop(&context, request, &reply)));
  return reply.job();
}

absl::StatusOr<AdminClient::Exported> AdminClient::Export(const std::string& job_id, const std::string& which) {
  grpc::ClientContext context;
  proto::ExportRequest request;
  request.set_job_id(job_id);
  request.set_which(which);
  const std::unique_ptr<grpc::ClientReader<proto::ExportMessage>> reader = stub_->Export(&context, request);
  ExportReader parts;
  absl::Status fault;
  for (proto::ExportMessage message; fault.ok() && reader->Read(&message);) fault = parts.Add(message);
  if (!fault.ok()) context.TryCancel();
  const grpc::Status end = reader->Finish();
  if (fault.ok()) WEFT_RETURN_IF_ERROR(StatusOf(end));
  absl::StatusOr<Exported> exported = fault.ok() ? std::move(parts).Finish() : absl::StatusOr<Exported>(fault);
  if (exported.ok()) return exported;
  return absl::DataLossError(absl::StrCat("export of job ", job_id, " from ", address_, ": ",
                                          exported.status().message(), "; export it again"));
}

absl::Status AdminClient::StatusOf(const grpc::Status& status) const {
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    return absl::UnavailableError(absl::StrCat("no coordinator answers at ", address_, " (", status.error_message(),
                                               "); start weft-coordinator or give --coordinator host:port"));
  }
  // gRPC's codes and Abseil's are both the canonical ones, number by number.
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace weft::cli
