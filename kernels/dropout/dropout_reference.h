#ifndef WEFT_KERNELS_DROPOUT_DROPOUT_REFERENCE_H_
#define WEFT_KERNELS_DROPOUT_DROPOUT_REFERENCE_H_

#include <cmath>

#include "common/random.h"
#include "kernels/dropout/dropout.h"

namespace weft::kernels {

// What dropout.h says, word by word.
inline bool ReferenceKeeps(const DropoutMask& mask, int64_t row, int64_t column) {
  const int64_t groups = (mask.width + 63) / 64;
  const auto block = static_cast<uint64_t>((row * groups + column / 64) * 16 + column % 16);
  return Philox(mask.seed, mask.stream).Block(block)[column / 16 % 4] >= std::round(std::ldexp(mask.rate, 32));
}

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_DROPOUT_DROPOUT_REFERENCE_H_
