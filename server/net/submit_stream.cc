#include "server/net/submit_stream.h"

#include <memory>
#include <string>
#include <utility>

#include "common/status_macros.h"
#include "server/net/grpc_status.h"

namespace weft::server {

SubmitStream* SubmitStream::Start(const Options& options) {
  auto* stream = new SubmitStream(options);
  stream->StartRead(&stream->message_);
  return stream;
}

void SubmitStream::OnReadDone(bool ok) {
  options_.work->Post([this, ok] {
    if (!ok) return Finish(ToGrpcStatus(Complete()));
    if (const absl::Status status = Receive(); !status.ok()) return Finish(ToGrpcStatus(status));
    StartRead(&message_);
  });
}

absl::Status SubmitStream::Receive() {
  switch (message_.kind_case()) {
    case proto::SubmitMessage::kConfig:
      if (config_.has_value()) return absl::InvalidArgumentError("found a second job config, expected one per submit");
      config_ = std::move(*message_.mutable_config());
      return absl::OkStatus();
    case proto::SubmitMessage::kWarmStart: {
      if (!config_.has_value() || warm_start_.has_value()) {
        return absl::InvalidArgumentError("found a warm start header, expected it once and after the job config");
      }
      WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, options_.coordinator->LayoutFor(*config_));
      WEFT_ASSIGN_OR_RETURN(AdapterDecoder decoder, AdapterDecoder::Create(message_.warm_start(), std::move(layout)));
      warm_start_.emplace(std::move(decoder));
      return absl::OkStatus();
    }
    case proto::SubmitMessage::kChunk:
      if (!warm_start_.has_value()) {
        return absl::InvalidArgumentError("found a chunk, expected the warm start header before its chunks");
      }
      return warm_start_->Add(message_.chunk());
    case proto::SubmitMessage::KIND_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("found a message of unknown kind, expected a job config; update `weft`");
}

absl::Status SubmitStream::Complete() {
  if (options_.call->IsCancelled()) return absl::CancelledError("submit broken off by the sender or the connection");
  if (!config_.has_value()) return absl::InvalidArgumentError("submit ended before the job config was sent");
  std::optional<Adapter> warm_start;
  if (warm_start_.has_value()) {
    WEFT_ASSIGN_OR_RETURN(warm_start, std::move(*warm_start_).Finish());
  }
  WEFT_ASSIGN_OR_RETURN(*options_.reply->mutable_job_id(),
                        options_.coordinator->Submit(*std::move(config_), std::move(warm_start)));
  return absl::OkStatus();
}

}  // namespace weft::server
