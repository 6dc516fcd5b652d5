#include "kernels/dropout/dropout.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weft::kernels {
namespace {

#define WEFT_KERNELS "kernels/dropout/dropout.inc"
#include "kernels/norm/targets.inc"

}  // namespace

template <typename T>
void Dropout(const DropoutMask& mask, const DropoutRows<const T>& x, const DropoutRows<T>& out, int64_t begin,
             int64_t end) {
  WEFT_CALL_BEST(Write<T>, mask, x, out, begin, end);
}

template <typename T>
void AddDropout(const DropoutMask& mask, const DropoutRows<const float>& x, const DropoutRows<T>& out, int64_t begin,
                int64_t end) {
  WEFT_CALL_BEST(Add<T>, mask, x, out, begin, end);
}

template void Dropout(const DropoutMask&, const DropoutRows<const float>&, const DropoutRows<float>&, int64_t, int64_t);
template void Dropout(const DropoutMask&, const DropoutRows<const uint16_t>&, const DropoutRows<uint16_t>&, int64_t,
                      int64_t);
template void AddDropout(const DropoutMask&, const DropoutRows<const float>&, const DropoutRows<float>&, int64_t,
                         int64_t);
template void AddDropout(const DropoutMask&, const DropoutRows<const float>&, const DropoutRows<uint16_t>&, int64_t,
                         int64_t);

}  // namespace weft::kernels
