#ifndef WEFT_KERNELS_DROPOUT_DROPOUT_H_
#define WEFT_KERNELS_DROPOUT_DROPOUT_H_

// Dropout whose every choice is a function of its place alone, on the CPU: raw pointers, no checks, no threads of its
// own. So a mask needs no memory: it is the same when it is made again, in any split over threads, and on every
// instruction set. Choices are words of Philox4x32-10 (common/random.h).

#include <cstdint>

namespace weft::kernels {

// Column c of row i is kept where word c / 16 % 4 of Philox(seed, stream).Block((i * groups + c / 64) * 16 + c % 16) is
// not below rate * 2^32; groups = ceil(width / 64).
struct DropoutMask {
  uint64_t seed = 0;
  uint64_t stream = 0;
  int64_t width = 0;
  double rate = 0;  // share that is dropped, below 1
};

// Rows of a matrix: row i begins at rows + i * stride. Row 0 is row 0 of the mask.
template <typename T>
struct DropoutRows {
  T* rows = nullptr;
  int64_t stride = 0;
};

// out = x / (1 - rate) where it is kept, else 0, for rows [begin, end). T: float, or uint16_t for the bits of bf16.
template <typename T>
void Dropout(const DropoutMask& mask, const DropoutRows<const T>& x, const DropoutRows<T>& out, int64_t begin,
             int64_t end);

// out += the same of x.
template <typename T>
void AddDropout(const DropoutMask& mask, const DropoutRows<const float>& x, const DropoutRows<T>& out, int64_t begin,
                int64_t end);

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_DROPOUT_DROPOUT_H_
