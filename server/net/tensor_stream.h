#ifndef WEFT_SERVER_NET_TENSOR_STREAM_H_
#define WEFT_SERVER_NET_TENSOR_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "adapters/codec.h"
#include "server/net/grpc_status.h"
#include "server/net/work_queue.h"

namespace weft::server {

// Streams tensors down: an optional first message, the header, the chunks, OK. `Message` has `header` and `chunk`,
// `Encoder` is one of adapters/codec.h. One message is in memory at a time. Deletes itself.
template <typename Message, typename Encoder>
class TensorStream final : public grpc::ServerWriteReactor<Message> {
 public:
  struct Source {
    std::shared_ptr<const Adapter> values;  // what the encoder refers to
    std::unique_ptr<Encoder> encoder;
    std::optional<Message> first;
  };
  // Called once, on the work queue; its error ends the stream.
  using Open = std::function<absl::StatusOr<Source>()>;

  static TensorStream* Start(WorkQueue* work, Open open) {
    auto* stream = new TensorStream();
    work->Post([stream, open = std::move(open)] { stream->Begin(open); });
    return stream;
  }

 private:
  TensorStream() = default;

  void Begin(const Open& open) {
    absl::StatusOr<Source> source = open();
    if (!source.ok()) {
      this->Finish(ToGrpcStatus(source.status()));
      return;
    }
    source_ = *std::move(source);
    if (source_.first.has_value()) {
      message_ = *std::move(source_.first);
      this->StartWrite(&message_);
    } else {
      WriteHeader();
    }
  }

  void WriteHeader() {
    *message_.mutable_header() = source_.encoder->Header();
    header_written_ = true;
    this->StartWrite(&message_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) {
      this->Finish(grpc::Status(grpc::StatusCode::CANCELLED, "receiver is gone"));
    } else if (!header_written_) {
      WriteHeader();
    } else if (source_.encoder->Next(message_.mutable_chunk())) {
      this->StartWrite(&message_);
    } else {
      this->Finish(grpc::Status::OK);
    }
  }

  void OnDone() override { delete this; }

  Source source_;
  Message message_;
  bool header_written_ = false;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_TENSOR_STREAM_H_
