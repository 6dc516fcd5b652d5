#include "kernels/losses/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weft::kernels {
namespace {

#define WEFT_KERNELS "kernels/losses/cross_entropy.inc"
#include "kernels/norm/targets.inc"

}  // namespace

template <typename T>
void CrossEntropy(const CrossEntropyRows<T>& rows, int64_t begin, int64_t end) {
  WEFT_CALL_BEST(CrossEntropy<T>, rows, begin, end);
}

template void CrossEntropy(const CrossEntropyRows<float>&, int64_t, int64_t);
template void CrossEntropy(const CrossEntropyRows<uint16_t>&, int64_t, int64_t);

}  // namespace weft::kernels
