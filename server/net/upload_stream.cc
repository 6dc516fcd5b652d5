#include "server/net/upload_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/net/grpc_status.h"

namespace weft::server {
namespace {

absl::Status BrokenOff() {
  return absl::CancelledError("upload broken off by the client, the connection, or a message over max_message_bytes");
}

}  // namespace

UploadStream* UploadStream::Start(const Shared& shared, grpc::CallbackServerContext* call) {
  auto* stream = new UploadStream(shared, call);
  stream->StartRead(&stream->message_);
  return stream;
}

void UploadStream::OnReadDone(bool ok) {
  watched_.Pause();
  if (!ok) {
    shared_.work->Post([this] { HandleEnd(); });
  } else if (!ticket_.has_value()) {
    shared_.admission->Post([this] { HandleStart(); });
  } else {
    shared_.work->Post([this] { HandleChunk(); });
  }
}

void UploadStream::OnDone() {
  if (!truncated_.has_value()) {
    delete this;
    return;
  }
  // The call is not there any more when the work runs.
  const absl::Status why = call_->IsCancelled() ? BrokenOff() : *truncated_;
  shared_.work->Post([this, why] {
    shared_.coordinator->AbandonUpload(*ticket_, why);
    delete this;
  });
}

void UploadStream::HandleStart() {
  if (const absl::Status status = Admit(); !status.ok()) return End(status);
  watched_.Expect();
  StartRead(&message_);
}

absl::Status UploadStream::Admit() {
  if (!message_.has_start()) {
    return absl::InvalidArgumentError("found a chunk first, expected the start of the upload (facts and header)");
  }
  WEFT_ASSIGN_OR_RETURN(const UploadTicket ticket, shared_.coordinator->BeginUpload(message_.start()));
  ticket_ = ticket.id;
  WEFT_ASSIGN_OR_RETURN(UpdateDecoder decoder, UpdateDecoder::Create(message_.start().header(), ticket.expected));
  decoder_.emplace(std::move(decoder));
  return absl::OkStatus();
}

void UploadStream::HandleChunk() {
  if (const absl::Status status = Receive(); !status.ok()) return End(status);
  watched_.Expect();
  StartRead(&message_);
}

absl::Status UploadStream::Receive() {
  if (!message_.has_chunk()) {
    return absl::InvalidArgumentError("found another message inside an upload, expected chunks only after its start");
  }
  WEFT_RETURN_IF_ERROR(decoder_->Add(message_.chunk()));
  return shared_.coordinator->UploadProgress(*ticket_, decoder_->received_bytes());
}

void UploadStream::HandleEnd() {
  const bool whole = !decoder_.has_value() || decoder_->received_bytes() == decoder_->total_bytes();
  absl::StatusOr<EncodedUpdate> update = Complete();
  if (absl::IsInvalidArgument(update.status()) && !whole) {
    truncated_ = update.status();
    return Finish(ToGrpcStatus(*truncated_));
  }
  if (!update.ok()) return End(update.status());
  const uint64_t ticket = *ticket_;
  ticket_.reset();
  End(shared_.coordinator->FinishUpload(ticket, *std::move(update)));
}

absl::StatusOr<EncodedUpdate> UploadStream::Complete() {
  if (watched_.stalled()) {
    return absl::AbortedError(absl::StrCat("upload stalled: nothing came for ",
                                           absl::FormatDuration(shared_.stalls->limit()), "; it may be sent again"));
  }
  if (call_->IsCancelled()) return BrokenOff();
  if (!decoder_.has_value()) {
    return absl::InvalidArgumentError("upload ended before its start; expected facts and header, then chunks");
  }
  return std::move(*decoder_).Finish();
}

void UploadStream::End(const absl::Status& status) {
  if (!status.ok() && ticket_.has_value()) shared_.coordinator->AbandonUpload(*ticket_, status);
  Finish(ToGrpcStatus(status));
}

}  // namespace weft::server
