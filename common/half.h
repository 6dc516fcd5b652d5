#ifndef WEFT_COMMON_HALF_H_
#define WEFT_COMMON_HALF_H_

// The two 16-bit floating-point formats, by integer arithmetic: the same bits on every machine. Rounding is to nearest,
// ties to even.

#include <bit>
#include <cstdint>

namespace weft {

// bfloat16: the upper half of an fp32. What is too large becomes Inf; a NaN stays one.
inline uint16_t ToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fff'ffff) > 0x7f80'0000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float FromBf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// IEEE binary16. 65520 and more becomes Inf; a NaN stays one.
inline uint16_t ToF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fff'ffff;
  if (magnitude > 0x7f80'0000) return sign | 0x7e00;
  if (magnitude >= 0x477f'f000) return sign | 0x7c00;  // 65520, halfway from the largest number to 2^16
  if (magnitude < 0x3880'0000) {                       // below 2^-14: units of 2^-24
    // Adding 0.5 moves the units to the end of the mantissa, rounded as every sum is.
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(sum) - 0x3f00'0000);
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112 << 10));
}

inline float FromF16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) return std::bit_cast<float>(sign | 0x7f80'0000 | (magnitude & 0x3ff) << 13);
  if (magnitude < 0x400) {  // a multiple of 2^-24
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f));
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + (uint32_t{112} << 23)));
}

}  // namespace weft

#endif  // WEFT_COMMON_HALF_H_
