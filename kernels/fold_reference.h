#ifndef WEFT_KERNELS_FOLD_REFERENCE_H_
#define WEFT_KERNELS_FOLD_REFERENCE_H_

// What fold.h computes, one element at a time, by integers of 128 bits: for tests, and for the elements that come one
// by one.

#include <cstddef>
#include <cstdint>

#include "kernels/fold.h"

namespace weft::kernels {

// Adds value * weight, rounded to a multiple of 2^-64. |value| < 2^16, weight < 2^29.
void AddProduct(float value, uint64_t weight, int64_t* hi, int64_t* lo);
// Adds another sum's element.
void AddLimbs(int64_t other_hi, int64_t other_lo, int64_t* hi, int64_t* lo);
// Element i of a source.
float DecodeOne(FoldFormat format, const FoldSource& source, size_t i);

void FoldReference(FoldFormat format, const FoldSource* sources, size_t count, size_t n, int64_t* hi, int64_t* lo);

// The sum over `weight`, 1 to 2^38 - 1, rounded once to nearest, ties to even. The sum itself: weight 1.
float QuotientF32(int64_t hi, int64_t lo, uint64_t weight);
double QuotientF64(int64_t hi, int64_t lo, uint64_t weight);

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_FOLD_REFERENCE_H_
