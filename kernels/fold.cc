#include "kernels/fold.h"

#include "kernels/fold_reference.h"

namespace weft::kernels {

void Fold(FoldFormat format, const FoldSource* sources, size_t count, size_t n, int64_t* hi, int64_t* lo) {
  FoldReference(format, sources, count, n, hi, lo);
}

void Quotients(const int64_t* hi, const int64_t* lo, size_t n, uint64_t weight, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = QuotientF32(hi[i], lo[i], weight);
}

}  // namespace weft::kernels
