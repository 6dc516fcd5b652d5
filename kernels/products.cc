#include "kernels/products.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

// Compiled once per SIMD target; the best that the CPU has is taken at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/products.cc"
#include <hwy/aligned_allocator.h>
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

namespace weft::kernels {
// Aligned room for `size` values, kept by the thread for the next call: large blocks are costly to map each time. Slots
// are apart from each other.
double* Scratch(int slot, int64_t size);
}  // namespace weft::kernels

HWY_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kPanel = 16;   // columns of a packed operand
constexpr int64_t kDepth = 128;  // of a block of Gram: a panel of it stays in the first cache
constexpr int64_t kChunk = 64;   // values read from each vector in a row, or pages change too often

using F64 = hn::CappedTag<double, 8>;
using V64 = hn::Vec<F64>;
constexpr int64_t kLanes = hn::MaxLanes(F64());
constexpr int64_t kWidth = 2 * kLanes;            // columns of a tile
constexpr int64_t kHeight = kLanes >= 8 ? 8 : 4;  // rows of a tile; kHeight x 2 sums fit the registers

int64_t Panels(int64_t n) { return (n + kPanel - 1) / kPanel; }

// The broadcast operand of a tile: a(k, m) = data[k * k_stride + m * m_stride].
struct Rows {
  const double* data;
  int64_t k_stride;
  int64_t m_stride;
};

// A product of two fp32 values is exact in fp64: then rounding it with the addition is no different.
template <bool kExact>
HWY_INLINE V64 MulAdd(V64 a, V64 b, V64 sum) {
  if constexpr (kExact) return hn::MulAdd(a, b, sum);
  return hn::Add(sum, hn::Mul(a, b));
}

// c[m, n] (+)= sum over k of a(k, m) b[k, n] for a tile of kPanel x kPanel; b is [depth, kPanel].
template <bool kExact, bool kAdd>
HWY_INLINE void Tile(const Rows& a, const double* HWY_RESTRICT b, int64_t depth, double* HWY_RESTRICT c,
                     int64_t c_stride) {
  const F64 d;
  for (int64_t m0 = 0; m0 < kPanel; m0 += kHeight) {
    for (int64_t n0 = 0; n0 < kPanel; n0 += kWidth) {
      V64 sums[kHeight][2];
      for (int64_t m = 0; m < kHeight; ++m) sums[m][0] = sums[m][1] = hn::Zero(d);
      const double* HWY_RESTRICT left = a.data + m0 * a.m_stride;
      const double* HWY_RESTRICT right = b + n0;
      for (int64_t k = 0; k < depth; ++k, left += a.k_stride, right += kPanel) {
        const V64 b0 = hn::Load(d, right);
        const V64 b1 = hn::Load(d, right + kLanes);
        for (int64_t m = 0; m < kHeight; ++m) {
          const V64 value = hn::Set(d, left[m * a.m_stride]);
          sums[m][0] = MulAdd<kExact>(value, b0, sums[m][0]);
          sums[m][1] = MulAdd<kExact>(value, b1, sums[m][1]);
        }
      }
      for (int64_t m = 0; m < kHeight; ++m) {
        double* to = c + (m0 + m) * c_stride + n0;
        for (int64_t half = 0; half < 2; ++half, to += kLanes) {
          hn::Store(kAdd ? hn::Add(hn::Load(d, to), sums[m][half]) : sums[m][half], d, to);
        }
      }
    }
  }
}

// How many vectors from j on lie side by side: value d of each is next to that of the one before.
int64_t Adjacent(const VectorStack& x, int64_t j, int64_t limit) {
  int64_t n = 1;
  while (j + n < limit && x.data[j + n] == x.data[j] + n && x.strides[j + n] == x.strides[j]) ++n;
  return n;
}

HWY_INLINE void Widen(const float* HWY_RESTRICT from, int64_t n, double* HWY_RESTRICT to) {
  const F64 d;
  const hn::Rebind<float, F64> d32;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) hn::StoreU(hn::PromoteTo(d, hn::LoadU(d32, from + i)), d, to + i);
  for (; i < n; ++i) to[i] = from[i];
}

// to[d, j] = row j's value d, for kPanel rows of consecutive values; how many of `depth` values of each were done.
int64_t TransposeRows(const float* const* rows, int64_t d0, int64_t depth, double* to) {
  const hn::CappedTag<float, 16> d32;
  constexpr int64_t kStep = hn::MaxLanes(d32);
  HWY_ALIGN float mixed[kPanel * kStep];  // [kPanel / 4, kStep, 4]
  int64_t done = 0;
  for (; done + kStep <= depth; done += kStep) {
    for (int64_t j = 0; j < kPanel; j += 4) {
      const auto load = [&](int64_t row) { return hn::LoadU(d32, rows[j + row] + d0 + done); };
      hn::StoreInterleaved4(load(0), load(1), load(2), load(3), d32, mixed + j * kStep);
    }
    for (int64_t d = 0; d < kStep; ++d) {
      for (int64_t j = 0; j < kPanel; j += 4) {
        const hn::CappedTag<double, 4> d64;
        const hn::Rebind<float, decltype(d64)> half;
        for (int64_t lane = 0; lane < 4; lane += hn::MaxLanes(d64)) {
          hn::StoreU(hn::PromoteTo(d64, hn::LoadU(half, mixed + j * kStep + d * 4 + lane)), d64,
                     to + (done + d) * kPanel + j + lane);
        }
      }
    }
  }
  return done;
}

// to[d, j - j0] for the vectors of one panel and `depth` values from d0 on; zero where there is no vector.
void PackPanel(const VectorStack& x, int64_t j0, int64_t d0, int64_t depth, double* to) {
  const int64_t end = std::min(x.count, j0 + kPanel);
  if (end - j0 < kPanel) std::fill_n(to, depth * kPanel, 0.0);
  if (end - j0 == kPanel && std::all_of(x.strides + j0, x.strides + end, [](int64_t s) { return s == 1; })) {
    const int64_t done = TransposeRows(x.data + j0, d0, depth, to);
    to += done * kPanel;
    d0 += done;
    depth -= done;
  }
  for (int64_t j = j0; j < end;) {
    const int64_t n = Adjacent(x, j, end);
    const int64_t stride = x.strides[j];
    const float* from = x.data[j] + d0 * stride;
    double* column = to + (j - j0);
    if (n == 1) {
      for (int64_t d = 0; d < depth; ++d) column[d * kPanel] = from[d * stride];
    } else {
      for (int64_t d = 0; d < depth; ++d) Widen(from + d * stride, n, column + d * kPanel);
    }
    j += n;
  }
}

void GramAny(const VectorStack& x, double* gram) {
  const int64_t panels = Panels(x.count), padded = panels * kPanel;
  double* packed = Scratch(0, padded * kDepth);
  double* sums = Scratch(1, padded * padded);
  std::fill_n(sums, padded * padded, 0.0);
  for (int64_t d0 = 0; d0 < x.length; d0 += kDepth) {
    const int64_t depth = std::min(kDepth, x.length - d0);
    for (int64_t p = 0; p < panels; ++p) PackPanel(x, p * kPanel, d0, depth, packed + p * kPanel * kDepth);
    for (int64_t q = 0; q < panels; ++q) {
      const double* right = packed + q * kPanel * kDepth;
      for (int64_t p = 0; p <= q; ++p) {
        const Rows left = {packed + p * kPanel * kDepth, kPanel, 1};
        Tile<true, true>(left, right, depth, sums + p * kPanel * padded + q * kPanel, padded);
      }
    }
  }
  for (int64_t i = 0; i < x.count; ++i) {
    for (int64_t j = i; j < x.count; ++j) gram[i * x.count + j] = gram[j * x.count + i] = sums[i * padded + j];
  }
}

// [k, columns] as panels of [k, kPanel], padded with zeros.
const double* PackDense(int slot, const double* w, int64_t k, int64_t columns) {
  double* packed = Scratch(slot, Panels(columns) * kPanel * k);
  for (int64_t p = 0; p < Panels(columns); ++p) {
    const int64_t n = std::min(kPanel, columns - p * kPanel);
    for (int64_t row = 0; row < k; ++row) {
      double* to = packed + (p * k + row) * kPanel;
      std::copy_n(w + row * columns + p * kPanel, n, to);
      std::fill_n(to + n, kPanel - n, 0.0);
    }
  }
  return packed;
}

// The part of a tile that lies within [rows, columns] of out.
void StoreTile(const double* tile, int64_t row, int64_t column, int64_t rows, int64_t columns, double* out) {
  const int64_t width = std::min(kPanel, columns - column);
  for (int64_t m = 0; m < std::min(kPanel, rows - row); ++m) {
    std::copy_n(tile + m * kPanel, width, out + (row + m) * columns + column);
  }
}

void CombineToRowsAny(const VectorStack& x, const double* w, int64_t columns, double* out) {
  const double* left = PackDense(0, w, x.count, columns);
  double* right = Scratch(1, x.count * kChunk);  // tiles of [count, kPanel]
  HWY_ALIGN double tile[kPanel * kPanel];
  std::fill_n(right, x.count * kChunk, 0.0);
  for (int64_t d0 = 0; d0 < x.length; d0 += kChunk) {
    const int64_t end = std::min(d0 + kChunk, x.length);
    for (int64_t j = 0; j < x.count; ++j) {
      double* to = right + j * kPanel;
      for (int64_t d = d0; d < end; d += kPanel, to += x.count * kPanel) {
        const int64_t n = std::min(kPanel, end - d);
        const float* from = x.data[j] + d * x.strides[j];
        if (x.strides[j] == 1) {
          Widen(from, n, to);
        } else {
          for (int64_t i = 0; i < n; ++i) to[i] = from[i * x.strides[j]];
        }
      }
    }
    const double* from = right;
    for (int64_t d = d0; d < end; d += kPanel, from += x.count * kPanel) {
      for (int64_t p = 0; p < Panels(columns); ++p) {
        Tile<false, false>({left + p * x.count * kPanel, kPanel, 1}, from, x.count, tile, kPanel);
        StoreTile(tile, p * kPanel, d, columns, x.length, out);
      }
    }
  }
}

void CombineToColumnsAny(const VectorStack& x, const double* w, int64_t columns, double* out) {
  const double* right = PackDense(0, w, x.count, columns);
  const int64_t width = x.count;
  double* left = Scratch(1, kPanel * width);  // [kPanel of d, count]
  HWY_ALIGN double tile[kPanel * kPanel];
  std::fill_n(left, kPanel * width, 0.0);
  for (int64_t d0 = 0; d0 < x.length; d0 += kPanel) {
    const int64_t n = std::min(kPanel, x.length - d0);
    for (int64_t j = 0; j < x.count;) {
      const int64_t run = Adjacent(x, j, x.count);
      for (int64_t d = 0; d < n; ++d) Widen(x.data[j] + (d0 + d) * x.strides[j], run, left + d * width + j);
      j += run;
    }
    for (int64_t p = 0; p < Panels(columns); ++p) {
      Tile<false, false>({left, 1, width}, right + p * x.count * kPanel, x.count, tile, kPanel);
      StoreTile(tile, d0, p * kPanel, x.length, columns, out);
    }
  }
}

void TransposedProductAny(const double* a, const double* b, int64_t k, int64_t m, int64_t n, bool symmetric,
                          double* out) {
  const double* left = PackDense(0, a, k, m);
  const double* right = PackDense(1, b, k, n);
  HWY_ALIGN double tile[kPanel * kPanel];
  for (int64_t q = 0; q < Panels(n); ++q) {
    for (int64_t p = symmetric ? q : 0; p < Panels(m); ++p) {
      Tile<false, false>({left + p * k * kPanel, kPanel, 1}, right + q * k * kPanel, k, tile, kPanel);
      StoreTile(tile, p * kPanel, q * kPanel, m, n, out);
    }
  }
  if (!symmetric) return;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < i; ++j) out[j * n + i] = out[i * n + j];
  }
}

}  // namespace weft::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::kernels {

double* Scratch(int slot, int64_t size) {
  thread_local hwy::AlignedFreeUniquePtr<double[]> rooms[2];
  thread_local int64_t sizes[2] = {0, 0};
  if (sizes[slot] < size || size == 0) {
    rooms[slot] = hwy::AllocateAligned<double>(std::max<int64_t>(size, 1));
    sizes[slot] = size;
  }
  return rooms[slot].get();
}

HWY_EXPORT(GramAny);
HWY_EXPORT(CombineToRowsAny);
HWY_EXPORT(CombineToColumnsAny);
HWY_EXPORT(TransposedProductAny);

void Gram(const VectorStack& x, double* gram) { HWY_DYNAMIC_DISPATCH(GramAny)(x, gram); }

void CombineToRows(const VectorStack& x, const double* w, int64_t columns, double* out) {
  HWY_DYNAMIC_DISPATCH(CombineToRowsAny)(x, w, columns, out);
}

void CombineToColumns(const VectorStack& x, const double* w, int64_t columns, double* out) {
  HWY_DYNAMIC_DISPATCH(CombineToColumnsAny)(x, w, columns, out);
}

void TransposedProduct(const double* a, const double* b, int64_t k, int64_t m, int64_t n, double* out) {
  HWY_DYNAMIC_DISPATCH(TransposedProductAny)(a, b, k, m, n, false, out);
}

void SymmetricTransposedProduct(const double* a, const double* b, int64_t k, int64_t n, double* out) {
  HWY_DYNAMIC_DISPATCH(TransposedProductAny)(a, b, k, n, n, true, out);
}

}  // namespace weft::kernels
#endif  // HWY_ONCE
