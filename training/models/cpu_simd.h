#ifndef WEFT_TRAINING_MODELS_CPU_SIMD_H_
#define WEFT_TRAINING_MODELS_CPU_SIMD_H_

// Vectors of 16 floats that the compiler maps onto whatever the CPU has, compiled for several instruction sets with the
// best chosen at run time. Everything here is inlined into the function that WEFT_SIMD_DISPATCH compiles, and nothing
// calls across instruction sets.

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

constexpr int64_t kLanes = 16;
using Floats = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));

WEFT_ALWAYS_INLINE Floats Load(const float* from) {
  Floats result;
  std::memcpy(&result, from, sizeof(result));
  return result;
}

WEFT_ALWAYS_INLINE void Store(Floats values, float* to) { std::memcpy(to, &values, sizeof(values)); }

WEFT_ALWAYS_INLINE Floats Max(Floats a, Floats b) { return a > b ? a : b; }

WEFT_ALWAYS_INLINE float HorizontalSum(Floats x) {
  x += __builtin_shuffle(x, Ints{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
  x += __builtin_shuffle(x, Ints{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
  x += __builtin_shuffle(x, Ints{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
  return x[0] + x[1];
}

WEFT_ALWAYS_INLINE float HorizontalMax(Floats x) {
  x = Max(x, __builtin_shuffle(x, Ints{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}));
  x = Max(x, __builtin_shuffle(x, Ints{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11}));
  x = Max(x, __builtin_shuffle(x, Ints{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13}));
  return x[0] > x[1] ? x[0] : x[1];
}

// e^x for x <= 0 to 2 units in the last place, 0 below -87, NaN for NaN. Cephes' way: 2^n times a polynomial on [-ln 2
// / 2, ln 2 / 2].
WEFT_ALWAYS_INLINE Floats ExpOfNonPositive(Floats x) {
  const Floats clamped = x < -87.0f ? Floats{} - 87.0f : x;
  const Ints n = __builtin_convertvector(clamped * 1.44269504f - 0.5f, Ints);  // rounds to nearest, as x <= 0
  const Floats whole = __builtin_convertvector(n, Floats);
  const Floats f = clamped - whole * 0.693359375f + whole * 2.12194440e-4f;
  Floats p = Floats{} + 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  const Floats power = reinterpret_cast<Floats>((n + 127) << 23);
  return x < -87.0f ? Floats{} : p * power;
}

// Four perfect shuffles of sixteen vectors transpose them.
WEFT_ALWAYS_INLINE void Transpose16(Floats (&rows)[16]) {
  for (int stage = 0; stage < 4; ++stage) {
    Floats shuffled[16];
    for (int i = 0; i < 8; ++i) {
      shuffled[2 * i] =
          __builtin_shuffle(rows[i], rows[i + 8], Ints{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
      shuffled[2 * i + 1] =
          __builtin_shuffle(rows[i], rows[i + 8], Ints{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
    }
    for (int i = 0; i < 16; ++i) rows[i] = shuffled[i];
  }
}

}  // namespace weft::simd

#endif  // WEFT_TRAINING_MODELS_CPU_SIMD_H_
