#ifndef WEFT_ADAPTERS_ENCODING_FORMAT_H_
#define WEFT_ADAPTERS_ENCODING_FORMAT_H_

// How the values of an update lie in its bytes. Little-endian; elements in layout order.
//
//   f32, bf16, f16  one value after the other.
//   int8            an fp32 scale per block, then a signed byte per value, -127 to 127. A value is fl32(code * scale).
//   int4            the same with codes -7 to 7, two to a byte, the lower half first; each tensor starts at a byte, and
//                   the half that an odd tensor leaves over is 0.
//   topk            a u32 count per tensor, then per tensor its (u32 index in the tensor, fp32 value), indices rising.
//                   What is not there is 0.
// A block is 128 values of one tensor; the last of a tensor may be shorter.

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/layout.h"

namespace weft {

enum class Encoding { kF32, kBf16, kF16, kInt8, kInt4, kTopK };

constexpr int64_t kBlockSize = 128;
// Values of an update are of smaller magnitude.
constexpr float kUpdateLimit = 65536.0f;

// As in EncodingConfig.values: "f32", "bf16", "f16", "int8", "int4", "topk".
const char* EncodingName(Encoding encoding);
// INVALID_ARGUMENT: another name.
absl::StatusOr<Encoding> ParseEncoding(std::string_view name);

// int8 and int4: where a tensor's scales (in scales) and codes (in bytes, of the update) begin.
struct TensorPlace {
  int64_t first_scale = 0;
  int64_t first_code_byte = 0;
};
// One per tensor of the layout. `encoding` is kInt8 or kInt4.
std::vector<TensorPlace> TensorPlaces(const Layout& layout, Encoding encoding);

// The int4 code in the lower or upper half of a byte.
inline int8_t HalfByteCode(uint8_t byte, bool upper) {
  const int code = upper ? byte >> 4 : byte & 15;
  return static_cast<int8_t>(code < 8 ? code : code - 16);
}

// Blocks of all tensors together.
int64_t NumBlocks(const Layout& layout);
// Values that topk sends of a tensor: ceil(density * size), at least 1 and at most size.
int64_t TopKCount(int64_t size, double density);
// `density` matters to topk alone.
uint64_t EncodedBytes(const Layout& layout, Encoding encoding, double density);

}  // namespace weft

#endif  // WEFT_ADAPTERS_ENCODING_FORMAT_H_
