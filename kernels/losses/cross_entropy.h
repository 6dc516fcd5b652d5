#ifndef WEFT_KERNELS_LOSSES_CROSS_ENTROPY_H_
#define WEFT_KERNELS_LOSSES_CROSS_ENTROPY_H_

// Softmax cross-entropy over rows and its gradient at once: raw pointers, no checks, no threads of its own. Rows are
// independent, so any split over threads gives the same bits on one instruction set. T: float, or uint16_t for the bits
// of bf16; computed in fp32.

#include <cstdint>

namespace weft::kernels {

template <typename T>
struct CrossEntropyRows {
  const T* logits;        // [rows, width]
  int64_t width;          // at least 1
  const int64_t* labels;  // [rows], below width; negative: nobody's row, whose loss and gradient are 0
  float* losses;          // [rows]: -log softmax(logits)[label]; NaN where a logit is NaN
  bool* correct;          // [rows]: no logit is larger than the label's, none before it as large
  // By logits, may be `logits` itself: weights[row] (softmax - target), target (1 - label_smoothing) at the label plus
  // label_smoothing / width everywhere. 0 where the weight is. null: not wanted.
  T* gradient;
  const float* weights;  // [rows]; not read without gradient
  float label_smoothing;
};

template <typename T>
void CrossEntropy(const CrossEntropyRows<T>& rows, int64_t begin, int64_t end);

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_LOSSES_CROSS_ENTROPY_H_
