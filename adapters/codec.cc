#include "adapters/codec.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace weft {
namespace {

constexpr char kEncoding[] = "f32";
constexpr size_t kSha256Bytes = 32;
constexpr uint64_t kElementBytes = sizeof(float);

template <typename... Parts>
absl::Status Refused(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

std::string Hex32(uint32_t value) { return absl::StrCat(absl::Hex(value, absl::kZeroPad8)); }

}  // namespace

AdapterEncoder::AdapterEncoder(const Adapter& adapter, uint64_t chunk_bytes)
    : adapter_(adapter), chunk_bytes_(chunk_bytes) {
  if (chunk_bytes == 0) std::abort();  // would never end
}

proto::TensorHeader AdapterEncoder::Header() const {
  const std::span<const std::byte> bytes = adapter_.bytes();
  proto::TensorHeader header;
  header.set_layout_hash(adapter_.layout().hash());
  header.set_encoding(kEncoding);
  header.set_total_bytes(bytes.size());
  header.set_sha256(Sha256Of(bytes.data(), bytes.size()));
  return header;
}

bool AdapterEncoder::Next(proto::Chunk* chunk) {
  const std::span<const std::byte> rest = adapter_.bytes().subspan(offset_);
  if (rest.empty()) return false;
  const uint64_t size = std::min<uint64_t>(chunk_bytes_, rest.size());
  chunk->set_offset(offset_);
  chunk->set_crc32c(Crc32c(rest.data(), size));
  chunk->set_data(rest.data(), size);
  offset_ += size;
  return true;
}

AdapterDecoder::AdapterDecoder(proto::TensorHeader header, std::shared_ptr<const Layout> layout)
    : header_(std::move(header)), adapter_(std::move(layout)) {}

absl::StatusOr<AdapterDecoder> AdapterDecoder::Create(const proto::TensorHeader& header,
                                                      std::shared_ptr<const Layout> layout) {
  if (header.layout_hash() != layout->hash()) {
    return Refused("found layout ", header.layout_hash(), ", expected ", layout->hash(),
                   "; run the same job and the same version of Weft on both ends");
  }
  if (header.encoding() != kEncoding) {
    return Refused("found encoding \"", header.encoding(), "\", expected \"", kEncoding,
                   "\"; run the same version of Weft on both ends");
  }
  if (header.total_bytes() != static_cast<uint64_t>(layout->size_bytes())) {
    return Refused("found ", header.total_bytes(), " bytes, expected the layout's ", layout->size_bytes());
  }
  if (header.sha256().size() != kSha256Bytes) {
    return Refused("found a SHA-256 of ", header.sha256().size(), " bytes, expected ", kSha256Bytes);
  }
  return AdapterDecoder(header, std::move(layout));
}

absl::Status AdapterDecoder::Add(const proto::Chunk& chunk) {
  const std::string& data = chunk.data();
  if (chunk.offset() != received_) {
    return Refused("found a chunk at byte ", chunk.offset(), ", expected byte ", received_,
                   "; chunks come in order without gaps");
  }
  if (data.empty()) return Refused("found an empty chunk at byte ", received_, ", expected data");
  if (data.size() > header_.total_bytes() - received_) {
    return Refused("found a chunk of ", data.size(), " bytes at byte ", received_, ", expected at most the ",
                   header_.total_bytes() - received_, " left of ", header_.total_bytes());
  }
  if (const uint32_t crc = Crc32c(data.data(), data.size()); crc != chunk.crc32c()) {
    return Refused("chunk at byte ", received_, ": wrong CRC32C, found ", Hex32(crc), " in the data, expected ",
                   Hex32(chunk.crc32c()), "; it was damaged on the way, send it again");
  }
  std::memcpy(adapter_.mutable_bytes().data() + received_, data.data(), data.size());
  sha_.Update(data.data(), data.size());
  const uint64_t begin = received_ / kElementBytes;  // the element a chunk ended in is checked once it is whole
  received_ += data.size();
  return CheckFinite(adapter_, begin, received_ / kElementBytes);
}

absl::StatusOr<Adapter> AdapterDecoder::Finish() && {
  if (received_ != header_.total_bytes()) {
    return Refused("found ", received_, " bytes, expected ", header_.total_bytes(), "; the tail is missing");
  }
  if (const std::string found = sha_.Finish(); found != header_.sha256()) {
    return Refused("found SHA-256 ", ToHex(found), " of the whole, expected ", ToHex(header_.sha256()),
                   "; the header belongs to other data");
  }
  return std::move(adapter_);
}

}  // namespace weft
