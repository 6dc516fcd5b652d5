#include "client/grpc_link.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "adapters/codec.h"
#include "client/grpc_status.h"
#include "common/dial_address.h"
#include "common/status_macros.h"

namespace weft {
namespace {

// What a chunk message needs beside its data: tags, offset, CRC and lengths.
constexpr uint64_t kChunkOverheadBytes = 64;

grpc::ChannelArguments ChannelArguments(const GrpcLink::Options& options, bool loopback) {
  grpc::ChannelArguments arguments;
  const int keepalive_ms = static_cast<int>(absl::ToInt64Milliseconds(options.keepalive));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive_ms);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, keepalive_ms);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Adapters come in chunks that the decoder bounds by the layout.
  arguments.SetMaxReceiveMessageSize(-1);
  // A shared subchannel would remember failures of earlier links and refuse to dial for its own backoff.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (loopback) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return arguments;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Link>> GrpcLink::Create(const Options& options) {
  WEFT_ASSIGN_OR_RETURN(const DialAddress address,
                        DialAddress::Parse(options.address, "coordinator", options.insecure));
  return absl::WrapUnique<Link>(
      new GrpcLink(options, grpc::CreateCustomChannel(address.target, grpc::InsecureChannelCredentials(),
                                                      ChannelArguments(options, address.loopback))));
}

GrpcLink::GrpcLink(const Options& options, std::shared_ptr<grpc::Channel> channel)
    : options_(options), stub_(proto::Federation::NewStub(channel)), guard_(options.stall_timeout) {}

GrpcLink::~GrpcLink() {
  Close();
  if (stream_ != nullptr && !finished_) stream_->Finish();
}

absl::StatusOr<proto::Welcome> GrpcLink::Connect(const proto::Hello& hello) {
  const StallGuard::Call call(&guard_, &context_);
  stream_ = stub_->Connect(&context_);
  proto::ClientMessage message;
  *message.mutable_hello() = hello;
  proto::ServerMessage reply;
  // A Write that fails says the stream has ended; why, and what came before, shows in the Read. Finish would wait for
  // ever for messages that nobody reads.
  stream_->Write(message);
  if (!stream_->Read(&reply)) {
    const absl::Status status = StatusOf(FinishStream(), call);
    if (!status.ok() && !absl::IsUnavailable(status)) return status;
    return absl::UnavailableError(absl::StrCat("no coordinator answers at ", options_.address, " (", status.message(),
                                               "); start weft-coordinator there or set another coordinator"));
  }
  if (!reply.has_welcome()) {
    return absl::InternalError(
        absl::StrCat("found another message than welcome first from ", options_.address, "; update the coordinator"));
  }
  const proto::Welcome& welcome = reply.welcome();
  MutexLock lock(mutex_);
  max_message_bytes_ = welcome.max_message_bytes();
  const uint64_t fits = max_message_bytes_ > kChunkOverheadBytes ? max_message_bytes_ - kChunkOverheadBytes : 1;
  chunk_bytes_ = std::clamp<uint64_t>(welcome.chunk_bytes(), 1, fits);
  connected_ = true;
  return welcome;
}

absl::StatusOr<proto::ServerMessage> GrpcLink::Receive() {
  proto::ServerMessage message;
  if (stream_->Read(&message)) return message;
  const grpc::Status end = FinishStream();
  MutexLock lock(mutex_);
  if (closed_) return Closed();
  // The coordinator ends a stream in good order only after the client has left.
  if (end.ok()) return absl::UnavailableError(absl::StrCat(options_.address, " ended the connection"));
  return FromGrpcStatus(end);
}

absl::Status GrpcLink::Send(const proto::ClientMessage& message) {
  MutexLock lock(mutex_);
  if (message.ByteSizeLong() > max_message_bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat("message of ", message.ByteSizeLong(), " bytes, expected at most ",
                                                     max_message_bytes_,
                                                     "; raise max_message_bytes of the coordinator"));
  }
  changed_.Wait(lock, [this] { return !writing_ || closed_ || finished_; });
  if (closed_) return Closed();
  if (finished_) return absl::UnavailableError(absl::StrCat("connection to ", options_.address, " lost"));
  writing_ = true;
  lock.unlock();
  const bool written = stream_->Write(message);
  lock.lock();
  writing_ = false;
  changed_.NotifyAll();
  if (closed_ && !written) return Closed();
  return written ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("connection to ", options_.address, " lost"));
}

absl::StatusOr<Adapter> GrpcLink::Download(const proto::DownloadRequest& request, const Adapter* held,
                                           std::shared_ptr<const Layout> job_layout, const BytesFunction& progress) {
  grpc::ClientContext context;
  StallGuard::Call call(&guard_, &context);
  const std::unique_ptr<grpc::ClientReader<proto::TensorMessage>> reader = stub_->Download(&context, request);
  const StateDecoder::Options expected{
      .job_layout = std::move(job_layout), .held = held, .base_step = request.base_step()};
  std::optional<StateDecoder> decoder;
  absl::Status fault;
  const auto take = [&](const proto::TensorMessage& message) -> absl::Status {
    if (message.has_header() == decoder.has_value()) return absl::DataLossError("expected one header, then chunks");
    if (message.has_header()) {
      WEFT_ASSIGN_OR_RETURN(decoder, StateDecoder::Create(message.header(), expected));
    } else {
      WEFT_RETURN_IF_ERROR(decoder->Add(message.chunk()));
    }
    return progress(decoder->received_bytes(), decoder->total_bytes()) ? absl::OkStatus()
                                                                       : absl::CancelledError("download cancelled");
  };
  for (proto::TensorMessage message; fault.ok() && reader->Read(&message);) {
    call.Touch();
    fault = take(message);
  }
  if (!fault.ok()) context.TryCancel();
  const grpc::Status end = reader->Finish();
  if (fault.ok()) WEFT_RETURN_IF_ERROR(StatusOf(end, call));
  if (fault.ok() && !decoder.has_value()) fault = absl::DataLossError("expected a header and chunks, found nothing");
  if (absl::IsCancelled(fault)) return fault;
  absl::StatusOr<Adapter> adapter = fault.ok() ? std::move(*decoder).Finish() : absl::StatusOr<Adapter>(fault);
  if (adapter.ok()) return adapter;
  return absl::DataLossError(absl::StrCat("download of job ", request.job_id(), " round ", request.round(), " from ",
                                          options_.address, ": ", adapter.status().message()));
}

absl::Status GrpcLink::Upload(const proto::Update& update, const EncodedUpdate& tensors, const std::string& components,
                              const BytesFunction& progress) {
  grpc::ClientContext context;
  StallGuard::Call call(&guard_, &context);
  proto::UploadReply reply;
  const std::unique_ptr<grpc::ClientWriter<proto::UploadMessage>> writer = stub_->Upload(&context, &reply);
  UpdateEncoder encoder(tensors, components, chunk_bytes_);
  proto::UploadMessage message;
  *message.mutable_start()->mutable_update() = update;
  *message.mutable_start()->mutable_header() = encoder.Header();
  const uint64_t total = message.start().header().total_bytes();
  bool wanted = true;
  bool open = writer->Write(message);
  while (wanted && open && encoder.Next(message.mutable_chunk())) {
    open = writer->Write(message);
    call.Touch();
    wanted = progress(message.chunk().offset() + message.chunk().data().size(), total);
  }
  if (!wanted) context.TryCancel();
  writer->WritesDone();
  const grpc::Status end = writer->Finish();
  return wanted ? StatusOf(end, call) : absl::CancelledError("upload cancelled");
}

void GrpcLink::Close() {
  bool wait_for_end = false;
  {
    MutexLock lock(mutex_);
    if (closed_) return;
    closed_ = true;
    changed_.NotifyAll();
    if (connected_ && !finished_ && changed_.WaitFor(lock, options_.close_grace, [this] { return !writing_; })) {
      wait_for_end = true;
    }
  }
  guard_.CancelAll();
  if (wait_for_end) {
    stream_->WritesDone();
    MutexLock lock(mutex_);
    changed_.WaitFor(lock, options_.close_grace, [this] { return finished_; });
  }
  context_.TryCancel();
}

absl::Status GrpcLink::StatusOf(const grpc::Status& status, const StallGuard::Call& call) {
  if (status.ok()) return absl::OkStatus();
  if (call.stalled()) {
    return absl::DeadlineExceededError(absl::StrCat("nothing moved to or from ", options_.address, " for ",
                                                    absl::FormatDuration(options_.stall_timeout)));
  }
  MutexLock lock(mutex_);
  return closed_ ? Closed() : FromGrpcStatus(status);
}

grpc::Status GrpcLink::FinishStream() {
  const grpc::Status end = stream_->Finish();
  MutexLock lock(mutex_);
  finished_ = true;
  changed_.NotifyAll();
  return end;
}

absl::Status GrpcLink::Closed() const { return absl::CancelledError("the link was closed"); }

}  // namespace weft
