#include "kernels/fold.h"

#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/fold_reference.h"

// Compiled once per SIMD target; the best that the CPU has is taken at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/fold.cc"
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR

void FoldAny(FoldFormat format, const FoldSource* sources, size_t count, size_t n, int64_t* hi, int64_t* lo) {
  FoldReference(format, sources, count, n, hi, lo);
}

void QuotientsAny(const int64_t* hi, const int64_t* lo, size_t n, uint64_t weight, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = QuotientF32(hi[i], lo[i], weight);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

// fp32 lanes, and the two halves of them as fp64 and int64.
using F32 = hn::ScalableTag<float>;
using F64 = hn::Repartition<double, F32>;
using I64 = hn::Repartition<int64_t, F32>;
using U64 = hn::Repartition<uint64_t, F32>;
using V32 = hn::Vec<F32>;
using V64 = hn::Vec<F64>;
using VI64 = hn::Vec<I64>;

// A source is read once, so its lines come from memory. One core can wait for few lines at a time by itself; asking for
// them early, into the second cache, keeps more on their way (docs/architecture.md has the measurement).
constexpr size_t kAheadBytes = 2048;

HWY_INLINE void Prefetch(const void* values, size_t byte) {
  // Beyond the end it has no effect; as an integer, since no pointer may lie there.
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(values) + byte + kAheadBytes), 0, 2);
}

// Elements i, i + 1, ... of a source as fp32; i is a multiple of the lanes.
template <FoldFormat kFormat>
HWY_INLINE V32 Load(const FoldSource& source, size_t i) {
  const F32 d;
  if constexpr (kFormat == FoldFormat::kF32) {
    Prefetch(source.values, i * 4);
    return hn::LoadU(d, static_cast<const float*>(source.values) + i);
  } else if constexpr (kFormat == FoldFormat::kBf16) {
    const hn::Rebind<uint16_t, F32> d16;
    const hn::RebindToUnsigned<F32> d32;
    Prefetch(source.values, i * 2);
    const auto upper = hn::LoadU(d16, static_cast<const uint16_t*>(source.values) + i);
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, upper)));
  } else if constexpr (kFormat == FoldFormat::kF16) {
    const hn::Rebind<hwy::float16_t, F32> d16;
    Prefetch(source.values, i * 2);
    return hn::PromoteTo(d, hn::LoadU(d16, static_cast<const hwy::float16_t*>(source.values) + i));
  } else {
    const hn::RebindToSigned<F32> d32;
    const hn::Rebind<int8_t, F32> d8;
    const auto scale = hn::Set(d, static_cast<const float*>(source.scales)[i / kFoldBlock]);
    if constexpr (kFormat == FoldFormat::kInt8) {
      const auto codes = hn::LoadU(d8, static_cast<const int8_t*>(source.values) + i);
      return hn::Mul(hn::ConvertTo(d, hn::PromoteTo(d32, codes)), scale);
    } else {
      // A byte's two codes become the two bytes of 16 bits; (x ^ 8) - 8 extends the sign of 4 bits.
      const hn::Repartition<uint16_t, decltype(d8)> d16;
      const hn::Rebind<uint8_t, decltype(d16)> d_packed;
      const auto packed = hn::PromoteTo(d16, hn::LoadU(d_packed, static_cast<const uint8_t*>(source.values) + i / 2));
      const auto halves =
          hn::Or(hn::And(packed, hn::Set(d16, 0x000f)), hn::And(hn::ShiftLeft<4>(packed), hn::Set(d16, 0x0f00)));
      const auto eight = hn::Set(d8, 8);
      const auto codes = hn::Sub(hn::Xor(hn::BitCast(d8, halves), eight), eight);
      return hn::Mul(hn::ConvertTo(d, hn::PromoteTo(d32, codes)), scale);
    }
  }
}

// Rounding by addition: x + 1.5 * 2^52 * unit has x to the nearest unit (ties to even) in its lower bits, as an integer
// on top of those of the constant, while |x| <= 2^51 * unit. Sums of such bits are sums of integers: the constant's are
// subtracted once, at the end. The rest, x less what was rounded, is exact.
struct Rounder {
  double magic;
  explicit constexpr Rounder(double unit) : magic(0x1.8p52 * unit) {}
  VI64 Bits(size_t count) const { return hn::Set(I64(), static_cast<int64_t>(std::bit_cast<uint64_t>(magic) * count)); }
};

// The products of one half of a vector, as integers of three units (or of the first and the last).
struct Parts {
  VI64 high;
  VI64 middle;
  VI64 low;
};

// Not as initial values of the members: an implicit constructor would not be compiled for the target.
HWY_INLINE Parts NoParts() { return {hn::Zero(I64()), hn::Zero(I64()), hn::Zero(I64())}; }

constexpr Rounder kLow(0x1p-64);
// value * weight up to 2^39: what the first leaves is at most 2^-13, and 2^51 units of 2^-64.
constexpr Rounder kNarrowHigh(0x1p-12);
// Up to 2^45: three steps.
constexpr Rounder kWideHigh(0x1p-6);
constexpr Rounder kMiddle(0x1p-57);

// Adds value * weight. The product has at most 24 + 29 bits: it is exact, and so a fused multiply-add of it is a plain
// addition, on every target.
template <bool kNarrow>
HWY_INLINE void AddProducts(V64 value, V64 weight, Parts& parts) {
  const F64 d;
  const I64 di;
  const auto high_magic = hn::Set(d, kNarrow ? kNarrowHigh.magic : kWideHigh.magic);
  const auto high = hn::MulAdd(value, weight, high_magic);
  parts.high = hn::Add(parts.high, hn::BitCast(di, high));
  auto rest = hn::MulSub(value, weight, hn::Sub(high, high_magic));
  if constexpr (!kNarrow) {
    const auto middle_magic = hn::Set(d, kMiddle.magic);
    const auto middle = hn::Add(rest, middle_magic);
    parts.middle = hn::Add(parts.middle, hn::BitCast(di, middle));
    rest = hn::Sub(rest, hn::Sub(middle, middle_magic));
  }
  parts.low = hn::Add(parts.low, hn::BitCast(di, hn::Add(rest, hn::Set(d, kLow.magic))));
}

// Adds what `count` products have gathered to the limbs and makes them unique again.
template <bool kNarrow>
HWY_INLINE void Store(const Parts& parts, size_t count, int64_t* hi, int64_t* lo) {
  const I64 d;
  auto high = hn::LoadU(d, hi);
  auto low = hn::Add(hn::LoadU(d, lo), hn::Sub(parts.low, kLow.Bits(count)));
  if constexpr (kNarrow) {
    // Units of 2^-12: the upper bits go to the higher limb, four to the lower.
    const auto units = hn::Sub(parts.high, kNarrowHigh.Bits(count));
    high = hn::Add(high, hn::ShiftRight<4>(units));
    low = hn::Add(low, hn::ShiftLeft<52>(hn::And(units, hn::Set(d, 15))));
  } else {
    high = hn::Add(high, hn::ShiftLeft<2>(hn::Sub(parts.high, kWideHigh.Bits(count))));
    // Units of 2^-57: 2^49 of them are one of the higher limb.
    const auto units = hn::Sub(parts.middle, kMiddle.Bits(count));
    const auto carry = hn::ShiftRight<49>(hn::Add(units, hn::Set(d, int64_t{1} << 48)));
    high = hn::Add(high, carry);
    low = hn::Add(low, hn::ShiftLeft<7>(hn::Sub(units, hn::ShiftLeft<49>(carry))));
  }
  const auto carry = hn::ShiftRight<56>(hn::Add(low, hn::Set(d, int64_t{1} << 55)));
  hn::StoreU(hn::Add(high, carry), d, hi);
  hn::StoreU(hn::Sub(low, hn::ShiftLeft<56>(carry)), d, lo);
}

// Limbs are read and written once, whatever the number of sources.
template <FoldFormat kFormat, bool kNarrow>
void FoldLoop(const FoldSource* sources, size_t count, size_t n, int64_t* hi, int64_t* lo) {
  const F32 d;
  const F64 d64;
  const size_t lanes = hn::Lanes(d);
  const size_t half = hn::Lanes(d64);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    Parts first = NoParts();
    Parts second = NoParts();
    for (size_t k = 0; k < count; ++k) {
      const V32 values = Load<kFormat>(sources[k], i);
      const V64 weight = hn::Set(d64, static_cast<double>(sources[k].weight));
      AddProducts<kNarrow>(hn::PromoteTo(d64, hn::LowerHalf(values)), weight, first);
      AddProducts<kNarrow>(hn::PromoteTo(d64, hn::UpperHalf(hn::Half<F32>(), values)), weight, second);
    }
    Store<kNarrow>(first, count, hi + i, lo + i);
    Store<kNarrow>(second, count, hi + i + half, lo + i + half);
  }
  for (size_t k = 0; k < count; ++k) {
    for (size_t j = i; j < n; ++j) {
      AddProduct(DecodeOne(kFormat, sources[k], j), sources[k].weight, hi + j, lo + j);
    }
  }
}

template <FoldFormat kFormat>
void FoldFormatted(const FoldSource* sources, size_t count, size_t n, int64_t* hi, int64_t* lo) {
  bool narrow = true;
  for (size_t k = 0; k < count; ++k) {
    narrow = narrow && static_cast<double>(sources[k].max_abs) * static_cast<double>(sources[k].weight) <= 0x1p39;
  }
  if (narrow) {
    FoldLoop<kFormat, true>(sources, count, n, hi, lo);
  } else {
    FoldLoop<kFormat, false>(sources, count, n, hi, lo);
  }
}

void FoldAny(FoldFormat format, const FoldSource* sources, size_t count, size_t n, int64_t* hi, int64_t* lo) {
  switch (format) {
    case FoldFormat::kF32:
      return FoldFormatted<FoldFormat::kF32>(sources, count, n, hi, lo);
    case FoldFormat::kBf16:
      return FoldFormatted<FoldFormat::kBf16>(sources, count, n, hi, lo);
    case FoldFormat::kF16:
      return FoldFormatted<FoldFormat::kF16>(sources, count, n, hi, lo);
    case FoldFormat::kInt8:
      return FoldFormatted<FoldFormat::kInt8>(sources, count, n, hi, lo);
    case FoldFormat::kInt4:
      return FoldFormatted<FoldFormat::kInt4>(sources, count, n, hi, lo);
  }
}

// A quotient in fp64 carries an error of a few units of its last place. Rounded to fp32 that is the correct result
// unless it lies so close to the middle of two neighbours that the error could decide: those are divided again,
// exactly.
void QuotientsAny(const int64_t* hi, const int64_t* lo, size_t n, uint64_t weight, float* out) {
  const F64 d;
  const I64 di;
  const hn::Rebind<float, F64> d32;
  const size_t lanes = hn::Lanes(d);
  const auto scale = hn::Set(d, 0x1p-8);
  const auto low_scale = hn::Set(d, 0x1p-64);
  const auto divisor = hn::Set(d, static_cast<double>(weight));
  const auto cut_bits = hn::Set(di, (int64_t{1} << 29) - 1);  // of fp64 that fp32 lacks
  const auto near_middle = hn::Set(di, (int64_t{1} << 28) - 9);
  const auto width = hn::Set(di, 18);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto high = hn::ConvertTo(d, hn::LoadU(di, hi + i));
    const auto low = hn::ConvertTo(d, hn::LoadU(di, lo + i));
    const auto sum = hn::Add(hn::Mul(high, scale), hn::Mul(low, low_scale));
    const auto quotient = hn::Div(sum, divisor);
    hn::StoreU(hn::DemoteTo(d32, quotient), d32, out + i);
    const auto offset = hn::Sub(hn::And(hn::BitCast(di, quotient), cut_bits), near_middle);
    // 0 <= offset <= width
    const auto doubtful = hn::AndNot(hn::BroadcastSignBit(offset), hn::BroadcastSignBit(hn::Sub(offset, width)));
    if (HWY_LIKELY(hn::AllTrue(di, hn::Eq(doubtful, hn::Zero(di))))) continue;
    for (size_t j = i; j < i + lanes; ++j) out[j] = QuotientF32(hi[j], lo[j], weight);
  }
  for (; i < n; ++i) out[i] = QuotientF32(hi[i], lo[i], weight);
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace weft::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace weft::kernels {

HWY_EXPORT(FoldAny);
HWY_EXPORT(QuotientsAny);

void Fold(FoldFormat format, const FoldSource* sources, size_t count, size_t n, int64_t* hi, int64_t* lo) {
  HWY_DYNAMIC_DISPATCH(FoldAny)(format, sources, count, n, hi, lo);
}

void Quotients(const int64_t* hi, const int64_t* lo, size_t n, uint64_t weight, float* out) {
  HWY_DYNAMIC_DISPATCH(QuotientsAny)(hi, lo, n, weight, out);
}

}  // namespace weft::kernels

#endif  // HWY_ONCE
