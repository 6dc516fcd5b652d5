#ifndef WEFT_TRAINING_MODELS_CPU_SIMD_H_
#define WEFT_TRAINING_MODELS_CPU_SIMD_H_

// Plain loops compiled for several instruction sets, the best chosen at run time. Loops are written so that the
// compiler vectorizes them without being allowed to reorder sums.

#include <cstdint>
#include <cstring>

#define WEFT_ALWAYS_INLINE inline __attribute__((always_inline))

// Defines `void name params` that calls the always-inline `body args`, compiled for AVX-512, AVX2 and the baseline.
// (target_clones would resolve before sanitizers have started.)
#if defined(__x86_64__)
#define WEFT_SIMD_DISPATCH(name, body, params, args)                                                               \
  __attribute__((                                                                                                  \
      target("avx512f,avx512vl,avx512dq,avx512bw,fma,prefer-vector-width=512"))) static void name##Avx512 params { \
    body args;                                                                                                     \
  }                                                                                                                \
  __attribute__((target("avx2,fma"))) static void name##Avx2 params { body args; }                                 \
  void name params {                                                                                               \
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&                                 \
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {                                \
      return name##Avx512 args;                                                                                    \
    }                                                                                                              \
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return name##Avx2 args;                   \
    body args;                                                                                                     \
  }
#else
#define WEFT_SIMD_DISPATCH(name, body, params, args) \
  void name params { body args; }
#endif

namespace weft::simd {

// e^x for x <= 0 to 2 units in the last place, 0 below -87. Cephes' way: 2^n times a polynomial on [-ln 2 / 2, ln 2 /
// 2].
WEFT_ALWAYS_INLINE float ExpOfNonPositive(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const auto n = static_cast<int32_t>(clamped * 1.44269504f - 0.5f);
  const auto whole = static_cast<float>(n);
  const float f = clamped - whole * 0.693359375f + whole * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  const int32_t bits = (n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return x < -87.0f ? 0.0f : p * power;
}

}  // namespace weft::simd

#endif  // WEFT_TRAINING_MODELS_CPU_SIMD_H_
