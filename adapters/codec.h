#ifndef WEFT_ADAPTERS_CODEC_H_
#define WEFT_ADAPTERS_CODEC_H_

// Adapter values as a header and CRC-checked chunks. See docs/wire_format.md.

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "common/hash.h"
#include "proto/adapter.pb.h"

namespace weft {

// Splits an adapter into chunks. The adapter must outlive it. Not thread-safe.
class AdapterEncoder {
 public:
  // chunk_bytes >= 1.
  AdapterEncoder(const Adapter& adapter, uint64_t chunk_bytes);
  // Computes SHA-256 over the whole.
  proto::TensorHeader Header() const;
  // False when all chunks were given.
  bool Next(proto::Chunk* chunk);

 private:
  const Adapter& adapter_;
  uint64_t chunk_bytes_;
  uint64_t offset_ = 0;
};

// Rebuilds an adapter. Create from the header, Add every chunk in order, Finish once. Any error is INVALID_ARGUMENT
// with what was found and expected, and final: the object must be dropped. Memory is bounded by the layout. Not
// thread-safe.
class AdapterDecoder {
 public:
  // Refuses another layout hash, an unknown encoding, a total unlike the layout's size, a SHA-256 that is not 32 bytes.
  static absl::StatusOr<AdapterDecoder> Create(const proto::TensorHeader& header, std::shared_ptr<const Layout> layout);
  // Refuses a wrong CRC, an offset that does not continue, data beyond the announced total, an empty chunk.
  // NaN and Inf are refused here too, naming the tensor.
  absl::Status Add(const proto::Chunk& chunk);
  // Refuses a missing tail and a wrong SHA-256.
  absl::StatusOr<Adapter> Finish() &&;

  uint64_t received_bytes() const { return received_; }
  uint64_t total_bytes() const { return header_.total_bytes(); }

 private:
  AdapterDecoder(proto::TensorHeader header, std::shared_ptr<const Layout> layout);
  proto::TensorHeader header_;
  Adapter adapter_;
  Sha256 sha_;
  uint64_t received_ = 0;
};

}  // namespace weft

#endif  // WEFT_ADAPTERS_CODEC_H_
