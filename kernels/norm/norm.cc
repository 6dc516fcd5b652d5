#include "kernels/norm/norm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weft::kernels {
namespace {

#define WEFT_KERNELS "kernels/norm/norm.inc"
#include "kernels/norm/targets.inc"

}  // namespace

template <typename T>
void NormForward(const NormWeights& weights, const NormForwardRows<T>& rows, int64_t begin, int64_t end) {
  WEFT_CALL_BEST(Forward<T>, weights, rows, begin, end);
}

template <typename T>
void NormBackward(const NormWeights& weights, const NormBackwardRows<T>& rows, int64_t begin, int64_t end) {
  WEFT_CALL_BEST(Backward<T>, weights, rows, begin, end);
}

template void NormForward(const NormWeights&, const NormForwardRows<float>&, int64_t, int64_t);
template void NormForward(const NormWeights&, const NormForwardRows<uint16_t>&, int64_t, int64_t);
template void NormBackward(const NormWeights&, const NormBackwardRows<float>&, int64_t, int64_t);
template void NormBackward(const NormWeights&, const NormBackwardRows<uint16_t>&, int64_t, int64_t);

}  // namespace weft::kernels
