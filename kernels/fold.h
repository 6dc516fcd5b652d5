#ifndef WEFT_KERNELS_FOLD_H_
#define WEFT_KERNELS_FOLD_H_

// The inner loops of an exact weighted sum: raw pointers, no checks, no allocation. See aggregators/core/exact_sum.h
// for what a sum is. fold_reference.h does the same with plain integers.
//
// An element of a sum is hi * 2^-8 + lo * 2^-64 with -2^55 <= lo < 2^55, which makes the two limbs unique.

#include <cstddef>
#include <cstdint>

namespace weft::kernels {

constexpr size_t kFoldBlock = 128;  // values that share a scale

enum class FoldFormat { kF32, kBf16, kF16, kInt8, kInt4 };

// The values of one update, from some element on.
struct FoldSource {
  const void* values = nullptr;  // in the sum's FoldFormat; int4: two to a byte, the lower half first
  const void* scales = nullptr;  // int8, int4: fp32 scale of the block that begins at the first value
  uint64_t weight = 0;           // below 2^29
  float max_abs = 65536.0f;      // no value is larger; a tight bound makes a fast pass possible
};

// The most sources of one call.
constexpr size_t kMostFoldSources = 512;

// Adds value * weight of elements 0 <= i < n of `count` sources. Each product is exact, and rounded to a multiple of
// 2^-64 (to nearest, ties to even) by itself. |value| < 2^16. The same bits on every SIMD target.
void Fold(FoldFormat format, const FoldSource* sources, size_t count, size_t n, int64_t* hi, int64_t* lo);

// out[i] = the sum over `weight` (1 to 2^38 - 1), rounded once to the nearest fp32, ties to even. 0 is never negative.
void Quotients(const int64_t* hi, const int64_t* lo, size_t n, uint64_t weight, float* out);

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_FOLD_H_
