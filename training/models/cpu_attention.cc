#include "training/models/cpu_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "training/models/cpu_simd.h"

namespace weft {
namespace {

// Key counts are padded to whole vectors in scratch memory; padding has weight zero.
constexpr int64_t kLanes = 16;

int64_t Padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Scratch of one thread, for rows of at most `keys` keys.
struct Scratch {
  Scratch(int64_t keys, int64_t head_dim)
      : key(Padded(keys) * head_dim), value(Padded(keys) * head_dim), weight(Padded(keys)), gradient(Padded(keys)) {}
  std::vector<float> key;       // [head_dim, Padded(keys)]: transposed, so that lanes are keys
  std::vector<float> value;     // [head_dim, Padded(keys)]
  std::vector<float> weight;    // [Padded(keys)]
  std::vector<float> gradient;  // [Padded(keys)]
};

int64_t LongestRow(const PackedAttentionShape& shape, int64_t begin, int64_t end) {
  int64_t longest = 0;
  for (int64_t row = begin / shape.heads; row <= (end - 1) / shape.heads; ++row) {
    longest = std::max(longest, shape.key_offsets[row + 1] - shape.key_offsets[row]);
  }
  return longest;
}

WEFT_ALWAYS_INLINE void Transpose(const float* from, int64_t stride, int64_t count, int64_t dim, float* __restrict to) {
  const int64_t padded = Padded(count);
  for (int64_t d = 0; d < dim; ++d) {
    for (int64_t j = 0; j < count; ++j) to[d * padded + j] = from[j * stride + d];
    for (int64_t j = count; j < padded; ++j) to[d * padded + j] = 0;
  }
}

// to[j] = scale * sum_d vector[d] * matrix[d, j], a whole vector of keys at a time so that the sum stays in a register.
WEFT_ALWAYS_INLINE void Products(const float* vector, const float* matrix, int64_t padded, int64_t dim, float scale,
                                 float* __restrict to) {
  for (int64_t block = 0; block < padded; block += kLanes) {
    float sum[kLanes] = {};
    for (int64_t d = 0; d < dim; ++d) {
      const float factor = vector[d];
      for (int64_t j = 0; j < kLanes; ++j) sum[j] += factor * matrix[d * padded + block + j];
    }
    for (int64_t j = 0; j < kLanes; ++j) to[block + j] = scale * sum[j];
  }
}

// to[d] = sum_j weight[j] * rows[j, d].
template <int64_t kDim>
WEFT_ALWAYS_INLINE void WeightedSum(const float* weight, const float* rows, int64_t stride, int64_t count, int64_t dim,
                                    float* __restrict to) {
  if constexpr (kDim > 0) {
    float sum[kDim] = {};
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t d = 0; d < kDim; ++d) sum[d] += weight[j] * rows[j * stride + d];
    }
    for (int64_t d = 0; d < kDim; ++d) to[d] = sum[d];
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
  for (int64_t pair = begin; pair < end; ++pair) {
    const int64_t row = pair / shape.heads, head = pair % shape.heads, column = head * dim;
    const int64_t first_key = shape.key_offsets[row], keys = shape.key_offsets[row + 1] - first_key,
                  padded = Padded(keys);
    Transpose(key + first_key * shape.key_stride + column, shape.key_stride, keys, dim, scratch.key.data());
    float* __restrict weight = scratch.weight.data();
    for (int64_t i = shape.query_offsets[row]; i < shape.query_offsets[row + 1]; ++i) {
      Products(query + i * shape.query_stride + column, scratch.key.data(), padded, dim, scale, weight);
      float largest = weight[0];
      for (int64_t j = 1; j < keys; ++j) largest = std::max(largest, weight[j]);
      for (int64_t j = 0; j < padded; ++j) weight[j] = simd::ExpOfNonPositive(weight[j] - largest);
      float sum = 0;
      for (int64_t j = 0; j < keys; ++j) sum += weight[j];
      for (int64_t j = 0; j < padded; ++j) weight[j] *= 1 / sum;
      log_sum[i * shape.heads + head] = largest + std::log(sum);
      WeightedSum<kDim>(weight, value + first_key * shape.key_stride + column, shape.key_stride, keys, dim,
                        out + i * width + column);
    }
  }
}

// With weights p and gradient o of one query's output: gradient of weight j is g_j = o . v_j, of score j p_j (g_j -
// sum_k p_k g_k).
template <int64_t kDim>
WEFT_ALWAYS_INLINE void BackwardPairs(const PackedAttentionShape& shape, const float* query, const float* key,
                                      const float* value, const float* log_sum, const float* out_gradient,
                                      const PackedAttentionGradients& gradients, int64_t begin, int64_t end) {
  const int64_t dim = kDim > 0 ? kDim : shape.head_dim, width = shape.heads * dim;
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  Scratch scratch(LongestRow(shape, begin, end), dim);
  for (int64_t pair = begin; pair < end; ++pair) {
    const int64_t row = pair / shape.heads, head = pair % shape.heads, column = head * dim;
    const int64_t first_key = shape.key_offsets[row], keys = shape.key_offsets[row + 1] - first_key,
                  padded = Padded(keys);
    const int64_t first = first_key * shape.key_stride + column;
    Transpose(key + first, shape.key_stride, keys, dim, scratch.key.data());
    Transpose(value + first, shape.key_stride, keys, dim, scratch.value.data());
    for (int64_t j = 0; j < keys; ++j) {
      std::memset(gradients.key + first + j * shape.key_stride, 0, dim * sizeof(float));
      std::memset(gradients.value + first + j * shape.key_stride, 0, dim * sizeof(float));
    }
    float* __restrict weight = scratch.weight.data();
    float* __restrict score = scratch.gradient.data();
    for (int64_t i = shape.query_offsets[row]; i < shape.query_offsets[row + 1]; ++i) {
      const float* __restrict q = query + i * shape.query_stride + column;
      const float* __restrict o = out_gradient + i * width + column;
      const float shift = log_sum[i * shape.heads + head];
      Products(q, scratch.key.data(), padded, dim, scale, weight);
      Products(o, scratch.value.data(), padded, dim, 1, score);
      // Rounding may leave a weight a hair above one; the exponential wants no positive argument.
      for (int64_t j = 0; j < padded; ++j) weight[j] = simd::ExpOfNonPositive(std::min(0.0f, weight[j] - shift));
      float mean = 0;
      for (int64_t j = 0; j < keys; ++j) mean += weight[j] * score[j];
      for (int64_t j = 0; j < padded; ++j) score[j] = scale * weight[j] * (score[j] - mean);
      WeightedSum<kDim>(score, key + first, shape.key_stride, keys, dim,
                        gradients.query + i * shape.query_stride + column);
      for (int64_t j = 0; j < keys; ++j) {
        float* __restrict key_gradient = gradients.key + first + j * shape.key_stride;
        float* __restrict value_gradient = gradients.value + first + j * shape.key_stride;
        const float score_j = score[j], weight_j = weight[j];
        for (int64_t d = 0; d < dim; ++d) {
          key_gradient[d] += score_j * q[d];
          value_gradient[d] += weight_j * o[d];
        }
      }
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
