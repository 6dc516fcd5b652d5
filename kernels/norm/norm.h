#ifndef WEFT_KERNELS_NORM_NORM_H_
#define WEFT_KERNELS_NORM_NORM_H_

// Layer norm (Ba et al., arXiv 1607.06450) and RMS norm (Zhang and Sennrich, arXiv 1910.07467) with frozen weights,
// over rows: raw pointers, no checks, no threads of their own. Rows are independent, so any split over threads gives
// the same bits on one instruction set. T: float, or uint16_t for the bits of bf16; statistics and weights are fp32.

#include <cstdint>

namespace weft::kernels {

struct NormWeights {
  const float* weight;  // [width]
  const float* bias;    // [width]; null: zero
  int64_t width;
  float epsilon;
  bool rms;
};

// A matrix [rows, width] whose rows begin `stride` elements apart.
template <typename T>
struct NormRows {
  T* data = nullptr;
  int64_t stride = 0;
  T* Row(int64_t row) const { return data + row * stride; }
};

// out = norm(x), or of x + residual, which is rounded to T and stored in `sum` first.
template <typename T>
struct NormForwardRows {
  NormRows<const T> x;
  NormRows<const T> residual;  // null data: none, and no sum
  NormRows<T> sum;
  NormRows<T> out;
  float* mean;  // [rows]; null: not kept. Not written with rms
  float* rstd;  // [rows]: 1 / sqrt(variance or mean of squares + epsilon); null: not kept
};

template <typename T>
void NormForward(const NormWeights& weights, const NormForwardRows<T>& rows, int64_t begin, int64_t end);

// gradient = that by what was normalised, given the gradient of out; with sum_gradient added.
template <typename T>
struct NormBackwardRows {
  NormRows<const T> x;  // what was normalised
  const float* mean;    // as kept; null with rms
  const float* rstd;
  NormRows<const T> out_gradient;
  NormRows<const T> sum_gradient;  // null data: none
  NormRows<T> gradient;
};

template <typename T>
void NormBackward(const NormWeights& weights, const NormBackwardRows<T>& rows, int64_t begin, int64_t end);

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_NORM_NORM_H_
