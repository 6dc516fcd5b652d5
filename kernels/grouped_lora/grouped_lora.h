#ifndef WEFT_KERNELS_GROUPED_LORA_GROUPED_LORA_H_
#define WEFT_KERNELS_GROUPED_LORA_GROUPED_LORA_H_

// Products with the thin factors of many adapters at once, on the CPU: raw pointers, no checks, no threads of their
// own. Members of a cohort own blocks of rows, of any number, of one wide matrix; each has a factor M [rank, width] of
// a rank of its own. LoRA (Hu et al., arXiv 2106.09685) with A [rank, in], B [out, rank] and low = x A^T is
//
//   forward:   Project(A, x -> low), Expand(B^T, low -> y)
//   backward:  Project(B^T, y_gradient -> low_gradient), Expand(A, low_gradient -> x_gradient),
//              AddGradient(A, low_gradient, x), AddGradient(B^T, low, y_gradient).
//
// Work is cut into items that write apart from each other, so threads may share them out in any way. Every sum has an
// order of its own, which depends on the rows of the member alone: any split, and any company, gives the same bits on
// one instruction set. Sums are fp32.

#include <cstdint>
#include <span>

namespace weft::kernels {

// One member's rows and its factor.
struct LoraFactor {
  int64_t begin = 0, end = 0;     // its rows of the wide matrix; may be none
  int64_t rank = 0;               // at least 1
  const float* values = nullptr;  // M
  float* gradient = nullptr;      // of M, laid out as it is; nullptr: not wanted
  float* low = nullptr;           // [end - begin, rank]
};

// A wide matrix [rows, width] with the factors of those who own its rows. T: float, or uint16_t for the bits of bf16,
// const where it is read only.
template <typename T>
struct LoraRows {
  T* rows = nullptr;
  int64_t stride = 0;  // elements from one row to the next
  int64_t width = 0;
  std::span<const LoraFactor> factors;
  bool transposed = false;  // factors lie as M^T [width, rank], as B does
  float scale = 1;          // multiplies what is computed
};

// Items of Project and Expand are blocks of rows, the same of both for the same members: what one thread projected, it
// may go on to expand. Those of AddGradient are panels of columns.
int64_t LoraRowBlocks(std::span<const LoraFactor> factors);
int64_t LoraColumnPanels(std::span<const LoraFactor> factors, int64_t width);

// Items [begin, end) of: low = scale * rows M^T.
template <typename T>
void LoraProject(const LoraRows<const T>& rows, int64_t begin, int64_t end);

// Items [begin, end) of: rows += scale * low M.
template <typename T>
void LoraExpand(const LoraRows<T>& rows, int64_t begin, int64_t end);

// Items [begin, end) of: gradient += scale * low^T rows.
template <typename T>
void LoraAddGradient(const LoraRows<const T>& rows, int64_t begin, int64_t end);

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_GROUPED_LORA_GROUPED_LORA_H_
