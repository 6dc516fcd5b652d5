#include "kernels/activation/activation.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weft::kernels {
namespace {

#define WEFT_KERNELS "kernels/activation/activation.inc"
#include "kernels/norm/targets.inc"

}  // namespace

template <typename T>
void ActivationForward(ActivationCurve curve, const T* x, T* out, int64_t count) {
  WEFT_CALL_BEST(Forward<T>, curve, x, out, count);
}

template <typename T>
void ActivationBackward(ActivationCurve curve, const T* x, const T* out_gradient, T* gradient, int64_t count) {
  WEFT_CALL_BEST(Backward<T>, curve, x, out_gradient, gradient, count);
}

template <typename T>
void GatedForward(ActivationCurve curve, const T* gate_up, int64_t width, T* out, int64_t begin, int64_t end) {
  WEFT_CALL_BEST(GatedForward<T>, curve, gate_up, width, out, begin, end);
}

template <typename T>
void GatedBackward(ActivationCurve curve, const T* gate_up, int64_t width, const T* out_gradient, T* gradient,
                   int64_t begin, int64_t end) {
  WEFT_CALL_BEST(GatedBackward<T>, curve, gate_up, width, out_gradient, gradient, begin, end);
}

template void ActivationForward(ActivationCurve, const float*, float*, int64_t);
template void ActivationForward(ActivationCurve, const uint16_t*, uint16_t*, int64_t);
template void ActivationBackward(ActivationCurve, const float*, const float*, float*, int64_t);
template void ActivationBackward(ActivationCurve, const uint16_t*, const uint16_t*, uint16_t*, int64_t);
template void GatedForward(ActivationCurve, const float*, int64_t, float*, int64_t, int64_t);
template void GatedForward(ActivationCurve, const uint16_t*, int64_t, uint16_t*, int64_t, int64_t);
template void GatedBackward(ActivationCurve, const float*, int64_t, const float*, float*, int64_t, int64_t);
template void GatedBackward(ActivationCurve, const uint16_t*, int64_t, const uint16_t*, uint16_t*, int64_t, int64_t);

}  // namespace weft::kernels
