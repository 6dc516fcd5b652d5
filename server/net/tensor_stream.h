#ifndef WEFT_SERVER_NET_TENSOR_STREAM_H_
#define WEFT_SERVER_NET_TENSOR_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "adapters/codec.h"
#include "server/net/grpc_status.h"
#include "server/net/work_queue.h"

namespace weft::server {

// Streams one adapter down: an optional first message, the header, the chunks, OK. `Message` has `header` and `chunk`.
// One message is in memory at a time. Deletes itself.
template <typename Message>
class TensorStream final : public grpc::ServerWriteReactor<Message> {
 public:
  struct Source {
    std::shared_ptr<const Adapter> adapter;
    std::optional<Message> first;
  };
  // Called once, on the work queue; its error ends the stream.
  using Open = std::function<absl::StatusOr<Source>()>;

  static TensorStream* Start(WorkQueue* work, uint64_t chunk_bytes, Open open) {
    auto* stream = new TensorStream(chunk_bytes);
    work->Post([stream, open = std::move(open)] { stream->Begin(open); });
    return stream;
  }

 private:
  explicit TensorStream(uint64_t chunk_bytes) : chunk_bytes_(chunk_bytes) {}

  void Begin(const Open& open) {
    absl::StatusOr<Source> source = open();
    if (!source.ok()) {
      this->Finish(ToGrpcStatus(source.status()));
      return;
    }
    adapter_ = std::move(source->adapter);
    encoder_.emplace(*adapter_, chunk_bytes_);
    if (source->first.has_value()) {
      message_ = *std::move(source->first);
      this->StartWrite(&message_);
    } else {
      WriteHeader();
    }
  }

  void WriteHeader() {
    *message_.mutable_header() = encoder_->Header();
    header_written_ = true;
    this->StartWrite(&message_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) {
      this->Finish(grpc::Status(grpc::StatusCode::CANCELLED, "receiver is gone"));
    } else if (!header_written_) {
      WriteHeader();
    } else if (encoder_->Next(message_.mutable_chunk())) {
      this->StartWrite(&message_);
    } else {
      this->Finish(grpc::Status::OK);
    }
  }

  void OnDone() override { delete this; }

  const uint64_t chunk_bytes_;
  std::shared_ptr<const Adapter> adapter_;
  std::optional<AdapterEncoder> encoder_;
  Message message_;
  bool header_written_ = false;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_TENSOR_STREAM_H_
