#include "adapters/encoding_format.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace weft {
namespace {

constexpr std::array<const char*, 6> kNames = {"f32", "bf16", "f16", "int8", "int4", "topk"};

int64_t Blocks(int64_t size) { return (size + kBlockSize - 1) / kBlockSize; }

int64_t CodeBytes(int64_t size, Encoding encoding) { return encoding == Encoding::kInt4 ? (size + 1) / 2 : size; }

}  // namespace

const char* EncodingName(Encoding encoding) { return kNames[static_cast<size_t>(encoding)]; }

absl::StatusOr<Encoding> ParseEncoding(std::string_view name) {
  const auto* const found =
      std::find_if(kNames.begin(), kNames.end(), [&](const char* known) { return name == known; });
  if (found != kNames.end()) return static_cast<Encoding>(found - kNames.begin());
  return absl::InvalidArgumentError(
      absl::StrCat("encoding: found \"", std::string(name), "\", expected one of ", absl::StrJoin(kNames, ", ")));
}

int64_t NumBlocks(const Layout& layout) {
  int64_t blocks = 0;
  for (const TensorSpec& tensor : layout.tensors()) blocks += Blocks(tensor.size);
  return blocks;
}

std::vector<TensorPlace> TensorPlaces(const Layout& layout, Encoding encoding) {
  std::vector<TensorPlace> places;
  places.reserve(layout.tensors().size());
  TensorPlace next{.first_scale = 0, .first_code_byte = NumBlocks(layout) * 4};
  for (const TensorSpec& tensor : layout.tensors()) {
    places.push_back(next);
    next.first_scale += Blocks(tensor.size);
    next.first_code_byte += CodeBytes(tensor.size, encoding);
  }
  return places;
}

int64_t TopKCount(int64_t size, double density) {
  return std::clamp(static_cast<int64_t>(std::ceil(density * static_cast<double>(size))), int64_t{1}, size);
}

uint64_t EncodedBytes(const Layout& layout, Encoding encoding, double density) {
  int64_t bytes = 0;
  for (const TensorSpec& tensor : layout.tensors()) {
    switch (encoding) {
      case Encoding::kF32:
        bytes += tensor.size * 4;
        break;
      case Encoding::kBf16:
      case Encoding::kF16:
        bytes += tensor.size * 2;
        break;
      case Encoding::kInt8:
      case Encoding::kInt4:
        bytes += Blocks(tensor.size) * 4 + CodeBytes(tensor.size, encoding);
        break;
      case Encoding::kTopK:
        bytes += 4 + TopKCount(tensor.size, density) * 8;
        break;
    }
  }
  return static_cast<uint64_t>(bytes);
}

}  // namespace weft
