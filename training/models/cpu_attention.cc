#include "training/models/cpu_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "training/models/cpu_simd.h"

namespace weft {
namespace {

using simd::Floats;
using simd::kLanes;

// Key counts are padded to whole vectors in scratch memory; padding has weight zero.
int64_t Padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Scratch of one thread, for rows of at most `keys` keys.
struct Scratch {
  Scratch(int64_t keys, int64_t head_dim)
      : key(Padded(keys) * head_dim), value(Padded(keys) * head_dim), weight(Padded(keys)), score(Padded(keys)) {}
  std::vector<float> key;     // [head_dim, Padded(keys)]: transposed, so that lanes are keys
  std::vector<float> value;   // [head_dim, Padded(keys)]
  std::vector<float> weight;  // [Padded(keys)]
  std::vector<float> score;   // [Padded(keys)]
};

int64_t LongestRow(const PackedAttentionShape& shape, int64_t begin, int64_t end) {
  int64_t longest = 0;
  for (int64_t row = begin / shape.heads; row <= (end - 1) / shape.heads; ++row) {
    longest = std::max(longest, shape.key_offsets[row + 1] - shape.key_offsets[row]);
  }
  return longest;
}

// [count, dim] with a stride -> [dim, Padded(count)], filled up with zeros.
WEFT_ALWAYS_INLINE void Transpose(const float* from, int64_t stride, int64_t count, int64_t dim, float* to) {
  const int64_t padded = Padded(count), whole = dim / kLanes * kLanes;
  for (int64_t block = 0; block < count; block += kLanes) {
    const int64_t rows = std::min(kLanes, count - block);
    for (int64_t d = 0; d < whole; d += kLanes) {
      Floats square[kLanes];
      for (int64_t j = 0; j < kLanes; ++j)
        square[j] = j < rows ? simd::Load(from + (block + j) * stride + d) : Floats{};
      simd::Transpose16(square);
      for (int64_t j = 0; j < kLanes; ++j) simd::Store(square[j], to + (d + j) * padded + block);
    }
    for (int64_t d = whole; d < dim; ++d) {
      for (int64_t j = 0; j < kLanes; ++j) to[d * padded + block + j] = j < rows ? from[(block + j) * stride + d] : 0;
    }
  }
}

// Products of `vector` [dim] with 16 columns of `matrix` [dim, padded]; four partial sums keep the multipliers busy.
WEFT_ALWAYS_INLINE Floats Products(const float* vector, const float* matrix, int64_t padded, int64_t dim) {
  Floats sum[4] = {};
  int64_t d = 0;
  for (; d + 4 <= dim; d += 4) {
    for (int64_t part = 0; part < 4; ++part) sum[part] += vector[d + part] * simd::Load(matrix + (d + part) * padded);
  }
  for (; d < dim; ++d) sum[0] += vector[d] * simd::Load(matrix + d * padded);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Lanes of the block that begins at key `block` which hold a key.
WEFT_ALWAYS_INLINE simd::Ints Present(int64_t block, int64_t keys) {
  constexpr simd::Ints kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return kLane < static_cast<int32_t>(std::min(kLanes, keys - block));
}

// to[d] = sum_j weight[j] * rows[j, d].
template <int64_t kDim>
WEFT_ALWAYS_INLINE void WeightedSum(const float* weight, const float* rows, int64_t stride, int64_t count, int64_t dim,
                                    float* to) {
  if constexpr (kDim > 0) {
    constexpr int64_t kVectors = kDim / kLanes;
    Floats even[kVectors] = {}, odd[kVectors] = {};
    int64_t j = 0;
    for (; j + 2 <= count; j += 2) {
      for (int64_t v = 0; v < kVectors; ++v) {
        even[v] += weight[j] * simd::Load(rows + j * stride + v * kLanes);
        odd[v] += weight[j + 1] * simd::Load(rows + (j + 1) * stride + v * kLanes);
      }
    }
    for (int64_t v = 0; v < kVectors; ++v) {
      if (j < count) even[v] += weight[j] * simd::Load(rows + j * stride + v * kLanes);
      simd::Store(even[v] + odd[v], to + v * kLanes);
    }
  } else {
    std::memset(to, 0, dim * sizeof(float));
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t d = 0; d < dim; ++d) to[d] += weight[j] * rows[j * stride + d];
    }
  }
}

template <int64_t kDim>
WEFT_ALWAYS_INLINE void ForwardPairs(const PackedAttentionShape& shape, const float* query, const float* key,
                                     const float* value, float* out, float* log_sum, int64_t begin, int64_t end) {
  const int64_t dim = kDim > 0 ? kDim : shape.head_dim, width = shape.heads * dim;
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  Scratch scratch(LongestRow(shape, begin, end), dim);
  float* weight = scratch.weight.data();
  for (int64_t pair = begin; pair < end; ++pair) {
    const int64_t row = pair / shape.heads, head = pair % shape.heads, column = head * dim;
    const int64_t first_key = shape.key_offsets[row], keys = shape.key_offsets[row + 1] - first_key,
                  padded = Padded(keys);
    const int64_t first = first_key * shape.key_stride + column;
    Transpose(key + first, shape.key_stride, keys, dim, scratch.key.data());
    for (int64_t i = shape.query_offsets[row]; i < shape.query_offsets[row + 1]; ++i) {
      Floats largest = Floats{} - std::numeric_limits<float>::infinity();
      for (int64_t block = 0; block < padded; block += kLanes) {
        const Floats score =
            scale * Products(query + i * shape.query_stride + column, scratch.key.data() + block, padded, dim);
        largest = Present(block, keys) ? simd::Max(largest, score) : largest;
        simd::Store(score, weight + block);
      }
      const float shift = simd::HorizontalMax(largest);
      Floats sums = {};
      for (int64_t block = 0; block < padded; block += kLanes) {
        // Padding may lie above the shift, where the exponential must not go.
        const Floats shifted = Present(block, keys) ? simd::Load(weight + block) - shift : Floats{};
        const Floats exponential = Present(block, keys) ? simd::ExpOfNonPositive(shifted) : Floats{};
        sums += exponential;
        simd::Store(exponential, weight + block);
      }
      const float sum = simd::HorizontalSum(sums);
      for (int64_t block = 0; block < padded; block += kLanes)
        simd::Store(simd::Load(weight + block) / sum, weight + block);
      log_sum[i * shape.heads + head] = shift + std::log(sum);
      WeightedSum<kDim>(weight, value + first, shape.key_stride, keys, dim, out + i * width + column);
    }
  }
}

// to[j, d] += factor[j] * vector[d].
WEFT_ALWAYS_INLINE void AddOuter(const float* factor, const float* vector, int64_t stride, int64_t count, int64_t dim,
                                 float* to) {
  const int64_t whole = dim / kLanes * kLanes;
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t d = 0; d < whole; d += kLanes) {
      simd::Store(simd::Load(to + j * stride + d) + factor[j] * simd::Load(vector + d), to + j * stride + d);
    }
    for (int64_t d = whole; d < dim; ++d) to[j * stride + d] += factor[j] * vector[d];
  }
}

// With weights p and gradient o of one query's output: gradient of weight j is g_j = o . v_j, of score j p_j (g_j -
// sum_k p_k g_k).
template <int64_t kDim>
WEFT_ALWAYS_INLINE void BackwardPairs(const PackedAttentionShape& shape, const float* query, const float* key,
                                      const float* value, const float* log_sum, const float* out_gradient,
                                      const PackedAttentionGradients& gradients, int64_t begin, int64_t end) {
  const int64_t dim = kDim > 0 ? kDim : shape.head_dim, width = shape.heads * dim, stride = shape.key_stride;
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  Scratch scratch(LongestRow(shape, begin, end), dim);
  float *weight = scratch.weight.data(), *score = scratch.score.data();
  for (int64_t pair = begin; pair < end; ++pair) {
    const int64_t row = pair / shape.heads, head = pair % shape.heads, column = head * dim;
    const int64_t first_key = shape.key_offsets[row], keys = shape.key_offsets[row + 1] - first_key,
                  padded = Padded(keys);
    const int64_t first = first_key * stride + column;
    Transpose(key + first, stride, keys, dim, scratch.key.data());
    Transpose(value + first, stride, keys, dim, scratch.value.data());
    for (int64_t j = 0; j < keys; ++j) {
      std::memset(gradients.key + first + j * stride, 0, dim * sizeof(float));
      std::memset(gradients.value + first + j * stride, 0, dim * sizeof(float));
    }
    for (int64_t i = shape.query_offsets[row]; i < shape.query_offsets[row + 1]; ++i) {
      const float *q = query + i * shape.query_stride + column, *o = out_gradient + i * width + column;
      Floats means = {};
      for (int64_t block = 0; block < padded; block += kLanes) {
        // Rounding may leave a score a hair above the sum; the exponential wants no positive argument.
        const Floats shifted =
            scale * Products(q, scratch.key.data() + block, padded, dim) - log_sum[i * shape.heads + head];
        const Floats exponential = simd::ExpOfNonPositive(shifted > 0.0f ? Floats{} : shifted);
        const Floats p = Present(block, keys) ? exponential : Floats{};
        const Floats g = Products(o, scratch.value.data() + block, padded, dim);
        means += p * g;
        simd::Store(p, weight + block);
        simd::Store(g, score + block);
      }
      const float mean = simd::HorizontalSum(means);
      for (int64_t block = 0; block < padded; block += kLanes) {
        simd::Store(scale * simd::Load(weight + block) * (simd::Load(score + block) - mean), score + block);
      }
      WeightedSum<kDim>(score, key + first, stride, keys, dim, gradients.query + i * shape.query_stride + column);
      AddOuter(score, q, stride, keys, dim, gradients.key + first);
      AddOuter(weight, o, stride, keys, dim, gradients.value + first);
    }
  }
}

template <typename... Args>
WEFT_ALWAYS_INLINE void Forward(const PackedAttentionShape& shape, Args... args) {
  if (shape.head_dim == 32) return ForwardPairs<32>(shape, args...);
  if (shape.head_dim == 64) return ForwardPairs<64>(shape, args...);
  ForwardPairs<0>(shape, args...);
}

template <typename... Args>
WEFT_ALWAYS_INLINE void Backward(const PackedAttentionShape& shape, Args... args) {
  if (shape.head_dim == 32) return BackwardPairs<32>(shape, args...);
  if (shape.head_dim == 64) return BackwardPairs<64>(shape, args...);
  BackwardPairs<0>(shape, args...);
}

}  // namespace

WEFT_SIMD_DISPATCH(PackedAttentionForward, Forward,
                   (const PackedAttentionShape& shape, const float* query, const float* key, const float* value,
                    float* out, float* log_sum, int64_t begin, int64_t end),
                   (shape, query, key, value, out, log_sum, begin, end))

WEFT_SIMD_DISPATCH(PackedAttentionBackward, Backward,
                   (const PackedAttentionShape& shape, const float* query, const float* key, const float* value,
                    const float* log_sum, const float* out_gradient, const PackedAttentionGradients& gradients,
                    int64_t begin, int64_t end),
                   (shape, query, key, value, log_sum, out_gradient, gradients, begin, end))

}  // namespace weft
