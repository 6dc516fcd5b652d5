#ifndef WEFT_ADAPTERS_CHUNKS_H_
#define WEFT_ADAPTERS_CHUNKS_H_

// Bytes as CRC-checked chunks, whatever they mean. See docs/wire_format.md.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/hash.h"
#include "proto/adapter.pb.h"

namespace weft {

// Cuts pieces of memory, taken as one sequence of bytes, into chunks. The memory must outlive it. Not thread-safe.
class ChunkWriter {
 public:
  // chunk_bytes >= 1. No piece is empty.
  ChunkWriter(std::vector<std::span<const std::byte>> pieces, uint64_t chunk_bytes);
  uint64_t total_bytes() const { return total_; }
  // Over the whole; 32 raw bytes.
  std::string Sha256OfAll() const;
  // False when all chunks were given.
  bool Next(proto::Chunk* chunk);

 private:
  std::vector<std::span<const std::byte>> pieces_;
  uint64_t chunk_bytes_;
  uint64_t total_ = 0;
  uint64_t offset_ = 0;
  size_t piece_ = 0;       // under way
  uint64_t in_piece_ = 0;  // bytes given of it
};

// The receiving end: Create, Check every chunk in order, Finish once. Any error is INVALID_ARGUMENT and final. Keeps no
// data. Not thread-safe.
class ChunkReader {
 public:
  // Refuses a SHA-256 that is not 32 bytes.
  static absl::StatusOr<ChunkReader> Create(const proto::TensorHeader& header);
  // Refuses an offset that does not continue, an empty chunk, data beyond the announced total, a wrong CRC.
  absl::Status Check(const proto::Chunk& chunk);
  // Refuses a missing tail and another SHA-256.
  absl::Status Finish();

  uint64_t received_bytes() const { return received_; }
  uint64_t total_bytes() const { return total_; }

 private:
  ChunkReader(uint64_t total, std::string sha256) : total_(total), expected_sha256_(std::move(sha256)) {}
  uint64_t total_;
  std::string expected_sha256_;
  Sha256 sha_;
  uint64_t received_ = 0;
};

}  // namespace weft

#endif  // WEFT_ADAPTERS_CHUNKS_H_
