#include "training/models/cpu_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace weft {
namespace {

// The headers above are outside the targets, so that none of their functions is compiled for more than the baseline.
namespace baseline {
#include "training/models/cpu_attention.inc"  // NOLINT: three times on purpose
}  // namespace baseline

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#include "training/models/cpu_attention.inc"  // NOLINT
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma,prefer-vector-width=512")
namespace avx512 {
#include "training/models/cpu_attention.inc"  // NOLINT
}  // namespace avx512
#pragma GCC pop_options
#endif

struct Kernels {
  decltype(&baseline::Forward) forward;
  decltype(&baseline::Backward) backward;
};

Kernels BestKernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw")) {
    return {avx512::Forward, avx512::Backward};
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {avx2::Forward, avx2::Backward};
#endif
  return {baseline::Forward, baseline::Backward};
}

const Kernels& ChosenKernels() {
  static const Kernels kernels = BestKernels();
  return kernels;
}

}  // namespace

void PackedAttentionForward(const PackedAttentionShape& shape, const float* query, const float* key, const float* value,
                            float* out, float* log_sum, int64_t begin, int64_t end) {
  ChosenKernels().forward(shape, query, key, value, out, log_sum, begin, end);
}

void PackedAttentionBackward(const PackedAttentionShape& shape, const float* query, const float* key,
                             const float* value, const float* log_sum, const float* out_gradient,
                             const PackedAttentionGradients& gradients, int64_t begin, int64_t end) {
  ChosenKernels().backward(shape, query, key, value, log_sum, out_gradient, gradients, begin, end);
}

}  // namespace weft
