#ifndef WEFT_KERNELS_NORM_TESTING_H_
#define WEFT_KERNELS_NORM_TESTING_H_

// For tests of kernels over fp32 and bf16, in all the instruction sets that the CPU has.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>
#include <vector>

#include "common/half.h"
#include "common/random.h"

namespace weft::kernels {

inline float ToFloat(float value) { return value; }
inline float ToFloat(uint16_t bits) { return FromBf16(bits); }

template <typename T>
T FromFloat(float value) {
  if constexpr (sizeof(T) == 2) {
    return ToBf16(value);
  } else {
    return value;
  }
}

template <typename T>
std::vector<T> Normal(std::string_view stream, int64_t count, double scale = 1, double shift = 0) {
  Philox random(/*seed=*/7, StreamId(stream));
  std::vector<T> values(count);
  for (T& value : values) value = FromFloat<T>(static_cast<float>(random.NextNormal() * scale + shift));
  return values;
}

// The largest |found - expected| / (1 + |expected|); NaN where one is.
template <typename T>
double LargestError(const std::vector<T>& found, const std::vector<double>& expected) {
  double largest = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double error = std::abs(ToFloat(found[i]) - expected[i]) / (1 + std::abs(expected[i]));
    if (!(error <= largest)) largest = error;  // NaN too
  }
  return largest;
}

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_NORM_TESTING_H_
