// What the attention kernels are made of, once per SIMD target: see hwy/foreach_target.h.

#if defined(WEFT_KERNELS_ATTENTION_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)  // NOLINT
#ifdef WEFT_KERNELS_ATTENTION_VECTORS_INL_H_
#undef WEFT_KERNELS_ATTENTION_VECTORS_INL_H_
#else
#define WEFT_KERNELS_ATTENTION_VECTORS_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
using U32 = hn::RebindToUnsigned<F32>;
using U16 = hn::Rebind<uint16_t, F32>;
using Floats = hn::Vec<F32>;
constexpr int64_t kLanes = hn::MaxLanes(F32());
constexpr int64_t kTileRows = kLanes >= 16 ? 8 : 4;  // kTileRows x 2 sums fit the registers

constexpr int64_t PaddedToLanes(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// 2^x for x <= 127 to 2 units in the last place; 0 below -126, NaN for NaN. The polynomial is the best one of its
// degree for relative error on [-1/2, 1/2].
HWY_INLINE Floats Exp2(Floats x) {
  const F32 d;
  const Floats to_integer = hn::Set(d, 0x1.8p23f);  // adding it leaves the nearest integer in the lowest bits
  const Floats least = hn::Set(d, -126.0f);
  const auto too_small = hn::Lt(x, least);
  const Floats clamped = hn::IfThenElse(too_small, least, x);  // Max may lose a NaN
  const Floats shifted = hn::Add(clamped, to_integer);
  const Floats f = hn::Sub(clamped, hn::Sub(shifted, to_integer));
  Floats p = hn::Set(d, 1.5353361959569156e-4f);
  p = hn::MulAdd(p, f, hn::Set(d, 1.3398875016719103e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.61843691766262e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.5503323674201965e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.4022647738456726e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.931471824645996e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  const U32 du;
  const auto exponent = hn::Add(hn::ShiftLeft<23>(hn::BitCast(du, shifted)), hn::Set(du, 0x3f80'0000));
  return hn::IfThenZeroElse(too_small, hn::Mul(p, hn::BitCast(d, exponent)));
}

// c[r, n] (+)= sum over k of a(r, k) b[k, n], n < columns, a multiple of kLanes. a(r, k) is a[r * a_stride + k], or
// transposed a[k * a_stride + r].
struct Product {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  int64_t rows, columns, depth;
};

template <bool kAdd, bool kTransposed, int64_t kRows, int64_t kVectors>
HWY_NOINLINE void Tile(const Product& p, int64_t row, int64_t column) {
  const F32 d;
  Floats sums[kRows][kVectors];
  float* HWY_RESTRICT c = p.c + row * p.c_stride + column;
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < kVectors; ++v) {
      sums[r][v] = kAdd ? hn::Load(d, c + r * p.c_stride + v * kLanes) : hn::Zero(d);
    }
  }
  const float* HWY_RESTRICT a = p.a + (kTransposed ? row : row * p.a_stride);
  const float* HWY_RESTRICT b = p.b + column;
  const int64_t a_step = kTransposed ? p.a_stride : 1, a_row = kTransposed ? 1 : p.a_stride;
  const int64_t depth = p.depth, b_stride = p.b_stride;
  for (int64_t k = 0; k < depth; ++k, a += a_step, b += b_stride) {
    Floats right[kVectors];
#pragma GCC unroll 8
    for (int64_t v = 0; v < kVectors; ++v) right[v] = hn::LoadU(d, b + v * kLanes);
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r) {
      const Floats left = hn::Set(d, a[r * a_row]);
#pragma GCC unroll 8
      for (int64_t v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(left, right[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < kVectors; ++v) hn::Store(sums[r][v], d, c + r * p.c_stride + v * kLanes);
  }
}

// The last rows of a product, fewer than a whole tile's.
template <bool kAdd, bool kTransposed, int64_t kRows, int64_t kVectors>
HWY_INLINE void LastTile(const Product& p, int64_t row, int64_t column) {
  if constexpr (kRows > 0) {
    if (p.rows - row == kRows) return Tile<kAdd, kTransposed, kRows, kVectors>(p, row, column);
    LastTile<kAdd, kTransposed, kRows - 1, kVectors>(p, row, column);
  }
}

template <bool kAdd, bool kTransposed, int64_t kVectors>
HWY_NOINLINE void Panel(const Product& p, int64_t column) {
  int64_t row = 0;
  for (; row + kTileRows <= p.rows; row += kTileRows) Tile<kAdd, kTransposed, kTileRows, kVectors>(p, row, column);
  LastTile<kAdd, kTransposed, kTileRows - 1, kVectors>(p, row, column);
}

template <bool kAdd, bool kTransposed>
void Multiply(const Product& p) {
  int64_t column = 0;
  for (; column + 2 * kLanes <= p.columns; column += 2 * kLanes) Panel<kAdd, kTransposed, 2>(p, column);
  if (column < p.columns) Panel<kAdd, kTransposed, 1>(p, column);
}

// Transpose: from [rows, columns] -> to [columns, rows], both counts multiples of kLanes.
#if HWY_TARGET == HWY_SCALAR
HWY_INLINE void Transpose(const float* HWY_RESTRICT from, int64_t rows, int64_t columns, float* HWY_RESTRICT to) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
  }
}
#else
// Blocks of 4 values from rows 0, 4, 8, ... as one vector.
template <int64_t kBlocks>
HWY_INLINE auto LoadEveryFourth(const float* from, int64_t stride) {
  const hn::CappedTag<float, 4 * kBlocks> d;
  if constexpr (kBlocks == 1) {
    return hn::Load(d, from);
  } else {
    const auto low = LoadEveryFourth<kBlocks / 2>(from, stride);
    return hn::Combine(d, LoadEveryFourth<kBlocks / 2>(from + kBlocks * 2 * stride, stride), low);
  }
}

HWY_INLINE void Transpose(const float* HWY_RESTRICT from, int64_t rows, int64_t columns, float* HWY_RESTRICT to) {
  const F32 d;
  const hn::Repartition<uint64_t, F32> d64;
  for (int64_t r = 0; r < rows; r += kLanes) {
    for (int64_t c = 0; c < columns; c += 4) {
      const float* at = from + r * columns + c;
      // Vector i holds rows i, i + 4, ...; transposing the 4 x 4 blocks across the four vectors makes columns of them.
      const Floats row0 = LoadEveryFourth<kLanes / 4>(at, columns),
                   row1 = LoadEveryFourth<kLanes / 4>(at + columns, columns),
                   row2 = LoadEveryFourth<kLanes / 4>(at + 2 * columns, columns),
                   row3 = LoadEveryFourth<kLanes / 4>(at + 3 * columns, columns);
      const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, row0, row1)),
                 high01 = hn::BitCast(d64, hn::InterleaveUpper(d, row0, row1)),
                 low23 = hn::BitCast(d64, hn::InterleaveLower(d, row2, row3)),
                 high23 = hn::BitCast(d64, hn::InterleaveUpper(d, row2, row3));
      float* column = to + c * rows + r;
      hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, low01, low23)), d, column);
      hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23)), d, column + rows);
      hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, high01, high23)), d, column + 2 * rows);
      hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23)), d, column + 3 * rows);
    }
  }
}
#endif

HWY_INLINE Floats LoadAsFloats(const float* from) { return hn::LoadU(F32(), from); }

HWY_INLINE Floats LoadAsFloats(const uint16_t* from) {
  return hn::BitCast(F32(), hn::ShiftLeft<16>(hn::PromoteTo(U32(), hn::LoadU(U16(), from))));
}

HWY_INLINE void StoreFloats(Floats values, float* to) { hn::StoreU(values, F32(), to); }

// Rounded to nearest, ties to even; a NaN stays one (common/half.h).
HWY_INLINE void StoreFloats(Floats values, uint16_t* to) {
  const U32 du;
  const auto bits = hn::BitCast(du, values);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(hn::Add(bits, hn::Set(du, 0x7fff)), odd);
  const auto nan = hn::MaskFromVec(hn::BitCast(du, hn::VecFromMask(F32(), hn::IsNaN(values))));
  const auto upper = hn::ShiftRight<16>(hn::IfThenElse(nan, hn::Set(du, 0x7fc0'0000), rounded));
  hn::StoreU(hn::DemoteTo(U16(), hn::BitCast(hn::RebindToSigned<U32>(), upper)), U16(), to);
}

// to[i] = scale * from[i], i < count; zeros up to a multiple of kLanes.
template <typename T>
HWY_INLINE void LoadRow(const T* HWY_RESTRICT from, int64_t count, float scale, float* HWY_RESTRICT to) {
  const F32 d;
  const Floats factor = hn::Set(d, scale);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::Store(hn::Mul(factor, LoadAsFloats(from + i)), d, to + i);
  if (i == count) return;
  T last[kLanes] = {};
  std::memcpy(last, from + i, (count - i) * sizeof(T));
  hn::Store(hn::Mul(factor, LoadAsFloats(last)), d, to + i);
}

// to[i] = scale * from[i], i < count.
template <typename T>
HWY_INLINE void StoreRow(const float* HWY_RESTRICT from, int64_t count, float scale, T* HWY_RESTRICT to) {
  const F32 d;
  const Floats factor = hn::Set(d, scale);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) StoreFloats(hn::Mul(factor, hn::Load(d, from + i)), to + i);
  if (i == count) return;
  T last[kLanes];
  StoreFloats(hn::Mul(factor, hn::Load(d, from + i)), last);
  std::memcpy(to + i, last, (count - i) * sizeof(T));
}

// Turns x_i and x_(i + half) by angle i, i < half; kBack: the transposed of that, which takes gradients back.
template <bool kBack>
HWY_INLINE void Rotate(const float* HWY_RESTRICT cos, const float* HWY_RESTRICT sin, int64_t half, float* x) {
  const F32 d;
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Floats c = hn::LoadU(d, cos + i), s = kBack ? hn::Neg(hn::LoadU(d, sin + i)) : hn::LoadU(d, sin + i);
    const Floats first = hn::LoadU(d, x + i), second = hn::LoadU(d, x + half + i);
    hn::StoreU(hn::NegMulAdd(second, s, hn::Mul(first, c)), d, x + i);
    hn::StoreU(hn::MulAdd(first, s, hn::Mul(second, c)), d, x + half + i);
  }
  for (; i < half; ++i) {
    const float c = cos[i], s = kBack ? -sin[i] : sin[i], first = x[i], second = x[half + i];
    x[i] = first * c - second * s;
    x[half + i] = second * c + first * s;
  }
}

}  // namespace weft::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // WEFT_KERNELS_ATTENTION_VECTORS_INL_H_
