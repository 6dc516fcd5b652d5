#include "kernels/fold_reference.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "common/half.h"

namespace weft::kernels {
namespace {

using Signed128 = __int128;
using Unsigned128 = unsigned __int128;

constexpr int kUnitBits = 64;  // a unit is 2^-64
constexpr int kLowBits = 56;   // the higher limb counts 2^56 units

// p / 2^shift to the nearest integer, ties to even. p < 2^62, shift >= 1.
uint64_t ShiftRightRounded(uint64_t p, int shift) {
  if (shift >= 63) return 0;  // less than half
  const uint64_t quotient = p >> shift;
  const uint64_t rest = p - (quotient << shift);
  const uint64_t half = uint64_t{1} << (shift - 1);
  return quotient + (rest > half || (rest == half && (quotient & 1) != 0) ? 1 : 0);
}

// value * weight in units, below 2^109.
Signed128 Units(float value, uint64_t weight) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t exponent = (bits & 0x7fff'ffff) >> 23;
  const uint64_t mantissa = (bits & 0x7f'ffff) | (exponent == 0 ? 0 : 0x80'0000);
  // |value| is mantissa * 2^(max(exponent, 1) - 150).
  const int shift = static_cast<int>(std::max(exponent, 1u)) - 150 + kUnitBits;
  const uint64_t product = mantissa * weight;
  const Unsigned128 units =
      shift >= 0 ? static_cast<Unsigned128>(product) << shift : ShiftRightRounded(product, -shift);
  return value < 0 ? -static_cast<Signed128>(units) : static_cast<Signed128>(units);
}

Signed128 Join(int64_t hi, int64_t lo) { return (static_cast<Signed128>(hi) << kLowBits) + lo; }

void Split(Signed128 sum, int64_t* hi, int64_t* lo) {
  *hi = static_cast<int64_t>((sum + (int64_t{1} << (kLowBits - 1))) >> kLowBits);
  *lo = static_cast<int64_t>(sum - (static_cast<Signed128>(*hi) << kLowBits));
}

int BitWidth(Unsigned128 x) {
  const auto high = static_cast<uint64_t>(x >> 64);
  return high != 0 ? 64 + std::bit_width(high) : std::bit_width(static_cast<uint64_t>(x));
}

// |sum| / weight, in units, rounded to kMantissa bits; times 2^*exponent it is the result.
template <int kMantissa>
uint64_t Quotient(Unsigned128 magnitude, uint64_t weight, int* exponent) {
  // Scaled by a power of two so that the integer quotient has 2 or 3 bits more than the result, to round by. The
  // dividend then has at most 38 + 53 + 2 bits.
  const int scale = std::bit_width(weight) + kMantissa + 2 - BitWidth(magnitude);
  const Unsigned128 dividend = scale >= 0 ? magnitude << scale : magnitude >> -scale;
  const bool cut = scale < 0 && (dividend << -scale) != magnitude;
  const auto quotient = static_cast<uint64_t>(dividend / weight);
  const bool inexact = cut || dividend % weight != 0;

  const int surplus = std::bit_width(quotient) - kMantissa;
  // The analyzer thinks of a quotient of 0, which the scale rules out.
  uint64_t mantissa = quotient >> surplus;  // NOLINT(clang-analyzer-core.UndefinedBinaryOperatorResult)
  const uint64_t rest = quotient - (mantissa << surplus);
  const uint64_t half = uint64_t{1} << (surplus - 1);
  if (rest > half || (rest == half && (inexact || (mantissa & 1) != 0))) ++mantissa;
  *exponent = surplus - scale - kUnitBits;
  return mantissa;
}

template <int kMantissa>
double SignedQuotient(int64_t hi, int64_t lo, uint64_t weight) {
  const Signed128 sum = Join(hi, lo);
  if (sum == 0) return 0;
  int exponent = 0;
  const uint64_t mantissa = Quotient<kMantissa>(static_cast<Unsigned128>(sum < 0 ? -sum : sum), weight, &exponent);
  // Exact: results are at least 2^-64 / 2^38 and below 2^55.
  const double magnitude = std::ldexp(static_cast<double>(mantissa), exponent);
  return sum < 0 ? -magnitude : magnitude;
}

}  // namespace

void AddProduct(float value, uint64_t weight, int64_t* hi, int64_t* lo) {
  Split(Join(*hi, *lo) + Units(value, weight), hi, lo);
}

void AddLimbs(int64_t other_hi, int64_t other_lo, int64_t* hi, int64_t* lo) {
  Split(Join(*hi, *lo) + Join(other_hi, other_lo), hi, lo);
}

float DecodeOne(FoldFormat format, const FoldSource& source, size_t i) {
  const auto* const bytes = static_cast<const unsigned char*>(source.values);
  const auto half = [&] {
    uint16_t bits = 0;
    std::memcpy(&bits, bytes + (i * 2), 2);
    return bits;
  };
  const auto scale = [&] {
    float value = 0;
    std::memcpy(&value, static_cast<const char*>(source.scales) + (i / kFoldBlock * 4), 4);
    return value;
  };
  switch (format) {
    case FoldFormat::kF32: {
      float value = 0;
      std::memcpy(&value, bytes + (i * 4), 4);
      return value;
    }
    case FoldFormat::kBf16:
      return FromBf16(half());
    case FoldFormat::kF16:
      return FromF16(half());
    case FoldFormat::kInt8:
      return static_cast<float>(static_cast<int8_t>(bytes[i])) * scale();
    case FoldFormat::kInt4: {
      const int code = i % 2 == 0 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4;
      return static_cast<float>(code < 8 ? code : code - 16) * scale();
    }
  }
  return 0;
}

void FoldReference(FoldFormat format, const FoldSource* sources, size_t count, size_t n, int64_t* hi, int64_t* lo) {
  for (size_t k = 0; k < count; ++k) {
    for (size_t i = 0; i < n; ++i) {
      AddProduct(DecodeOne(format, sources[k], i), sources[k].weight, hi + i, lo + i);
    }
  }
}

float QuotientF32(int64_t hi, int64_t lo, uint64_t weight) {
  return static_cast<float>(SignedQuotient<24>(hi, lo, weight));
}

double QuotientF64(int64_t hi, int64_t lo, uint64_t weight) { return SignedQuotient<53>(hi, lo, weight); }

}  // namespace weft::kernels
