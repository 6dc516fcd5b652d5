#include "adapters/chunks.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"

namespace weft {
namespace {

constexpr size_t kSha256Bytes = 32;

template <typename... Parts>
absl::Status Refused(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

std::string Hex32(uint32_t value) { return absl::StrCat(absl::Hex(value, absl::kZeroPad8)); }

}  // namespace

ChunkWriter::ChunkWriter(std::vector<std::span<const std::byte>> pieces, uint64_t chunk_bytes)
    : pieces_(std::move(pieces)), chunk_bytes_(chunk_bytes) {
  if (chunk_bytes == 0) std::abort();  // would never end
  for (const auto& piece : pieces_) total_ += piece.size();
}

std::string ChunkWriter::Sha256OfAll() const {
  Sha256 sha;
  for (const auto& piece : pieces_) sha.Update(piece.data(), piece.size());
  return sha.Finish();
}

bool ChunkWriter::Next(proto::Chunk* chunk) {
  if (offset_ == total_) return false;
  const uint64_t size = std::min(chunk_bytes_, total_ - offset_);
  chunk->set_offset(offset_);
  std::string& data = *chunk->mutable_data();
  data.clear();
  data.reserve(size);
  while (data.size() < size) {
    const std::span<const std::byte> rest = pieces_[piece_].subspan(in_piece_);
    const uint64_t part = std::min<uint64_t>(rest.size(), size - data.size());
    data.append(reinterpret_cast<const char*>(rest.data()), part);
    in_piece_ += part;
    if (part == rest.size()) {
      ++piece_;
      in_piece_ = 0;
    }
  }
  chunk->set_crc32c(Crc32c(data.data(), data.size()));
  offset_ += size;
  return true;
}

absl::StatusOr<ChunkReader> ChunkReader::Create(const proto::TensorHeader& header) {
  if (header.sha256().size() != kSha256Bytes) {
    return Refused("found a SHA-256 of ", header.sha256().size(), " bytes, expected ", kSha256Bytes);
  }
  return ChunkReader(header.total_bytes(), header.sha256());
}

absl::Status ChunkReader::Check(const proto::Chunk& chunk) {
  const std::string& data = chunk.data();
  if (chunk.offset() != received_) {
    return Refused("found a chunk at byte ", chunk.offset(), ", expected byte ", received_,
                   "; chunks come in order without gaps");
  }
  if (data.empty()) return Refused("found an empty chunk at byte ", received_, ", expected data");
  if (data.size() > total_ - received_) {
    return Refused("found a chunk of ", data.size(), " bytes at byte ", received_, ", expected at most the ",
                   total_ - received_, " left of ", total_);
  }
  if (const uint32_t crc = Crc32c(data.data(), data.size()); crc != chunk.crc32c()) {
    return Refused("chunk at byte ", received_, ": wrong CRC32C, found ", Hex32(crc), " in the data, expected ",
                   Hex32(chunk.crc32c()), "; it was damaged on the way, send it again");
  }
  sha_.Update(data.data(), data.size());
  received_ += data.size();
  return absl::OkStatus();
}

absl::Status ChunkReader::Finish() {
  if (received_ != total_) {
    return Refused("found ", received_, " bytes, expected ", total_, "; the tail is missing");
  }
  if (const std::string found = sha_.Finish(); found != expected_sha256_) {
    return Refused("found SHA-256 ", ToHex(found), " of the whole, expected ", ToHex(expected_sha256_),
                   "; the header belongs to other data");
  }
  return absl::OkStatus();
}

}  // namespace weft
