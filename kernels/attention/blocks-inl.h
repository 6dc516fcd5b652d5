// Blocks of queries of the attention kernels, what they see, and how they and their keys are loaded. Once per SIMD
// target: see hwy/foreach_target.h.

#if defined(WEFT_KERNELS_ATTENTION_BLOCKS_INL_H_) == defined(HWY_TARGET_TOGGLE)  // NOLINT
#ifdef WEFT_KERNELS_ATTENTION_BLOCKS_INL_H_
#undef WEFT_KERNELS_ATTENTION_BLOCKS_INL_H_
#else
#define WEFT_KERNELS_ATTENTION_BLOCKS_INL_H_
#endif

#include <hwy/aligned_allocator.h>
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "kernels/attention/attention.h"
#include "kernels/attention/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {

constexpr int64_t kBlock = 2 * kLanes;  // queries
constexpr int64_t kShort = 64;          // tokens of a row
constexpr int64_t kKeyBlock = 256;      // keys whose weights and values are used while they are in the first cache
constexpr float kLog2E = 1.44269504089f, kLn2 = 0.69314718056f;

// The queries of a block and what they see. Lanes beyond `count` are computed on zeros and used nowhere.
struct Block {
  int64_t count = 0;
  int64_t lanes = 0;      // count, filled up to whole vectors
  int64_t query[kBlock];  // in the whole batch
  int64_t head[kBlock];
  HWY_ALIGN float position[kBlock];
  int64_t first = 0, last = 0;          // keys of the row that some of them see: [first, last)
  int64_t all_first = 0, all_last = 0;  // and all of them
  float window = 0;
};

Block DescribeBlock(const AttentionProblem& problem, int64_t row, int64_t key_head, int64_t begin, int64_t end) {
  Block block;
  block.count = std::min(kBlock, end - begin);
  block.lanes = PaddedToLanes(block.count);
  const int64_t first_query = problem.query_offsets[row], queries = problem.query_offsets[row + 1] - first_query;
  const int64_t keys = problem.key_offsets[row + 1] - problem.key_offsets[row];
  int64_t head = key_head * (problem.heads / problem.key_heads) + begin / queries, query = begin % queries;
  int64_t lowest = std::numeric_limits<int64_t>::max(), highest = 0;
  for (int64_t i = 0; i < block.count; ++i) {
    block.query[i] = first_query + query;
    block.head[i] = head;
    const int64_t position = problem.query_positions != nullptr ? problem.query_positions[first_query + query] : query;
    block.position[i] = static_cast<float>(position);
    lowest = std::min(lowest, position);
    highest = std::max(highest, position);
    if (++query == queries) query = 0, ++head;
  }
  for (int64_t i = block.count; i < block.lanes; ++i) block.position[i] = static_cast<float>(highest);
  block.last = block.all_last = keys;
  if (!problem.causal) return block;
  const int64_t window = problem.sliding_window > 0 ? problem.sliding_window : keys;
  block.window = static_cast<float>(window);
  block.first = std::max<int64_t>(0, lowest - window + 1);
  block.last = highest + 1;
  block.all_first = std::max<int64_t>(0, highest - window + 1);
  block.all_last = lowest + 1;
  return block;
}

// Working memory for rows of up to `keys` keys.
struct Scratch {
  Scratch(const AttentionProblem& problem, int64_t keys, bool backward)
      : width(PaddedToLanes(problem.head_dim)),
        memory(hwy::AllocateAligned<float>((backward ? 4 : 2) * keys * width + (backward ? 2 : 1) * keys * kBlock +
                                           (backward ? 5 : 3) * kBlock * width)) {
    float* next = memory.get();
    const auto take = [&](int64_t size) { return next += size, next - size; };
    key_copy = take(keys * width), value_copy = take(keys * width);
    weight = take(keys * kBlock);
    query = take(kBlock * width), transposed_query = take(kBlock * width), out = take(kBlock * width);
    if (!backward) return;
    key_gradient = take(keys * width), value_gradient = take(keys * width);
    score = take(keys * kBlock);
    query_gradient = take(kBlock * width), transposed_out = take(kBlock * width);
  }
  int64_t width;  // head_dim, filled up to whole vectors with zeros
  hwy::AlignedFreeUniquePtr<float[]> memory;
  AttentionColumns<const float> key, value;                      // the pair's, in the copies or where they came from
  float *key_copy, *value_copy, *key_gradient, *value_gradient;  // [keys, width]
  float *weight, *score;                                         // [keys, lanes of the block]
  float *query, *out, *query_gradient;                           // [queries of the block, width]
  float *transposed_query, *transposed_out;                      // [width, lanes of the block]
};

float Scale(const AttentionProblem& problem) { return 1 / std::sqrt(static_cast<float>(problem.head_dim)); }

template <bool kBack>
HWY_INLINE void Turn(const AttentionProblem& problem, int64_t position, float* row) {
  if (problem.rotated == 0) return;
  const int64_t half = problem.rotated / 2;
  Rotate<kBack>(problem.cos + position * half, problem.sin + position * half, half, row);
}

// Keys and values of a pair as fp32, keys turned. Short rows that are so already are used where they lie; of long ones,
// which are read again and again, a copy spares pages.
template <typename T>
void LoadKeysAndValues(const AttentionProblem& problem, const AttentionInputs<T>& in, int64_t row, int64_t key_head,
                       Scratch& scratch) {
  const int64_t first = problem.key_offsets[row], keys = problem.key_offsets[row + 1] - first, dim = problem.head_dim;
  const T *key = in.key.data + first * in.key.stride + key_head * dim,
          *value = in.value.data + first * in.value.stride + key_head * dim;
  if constexpr (std::is_same_v<T, float>) {
    if (problem.rotated == 0 && dim == scratch.width && keys <= kShort) {
      scratch.key = {key, in.key.stride};
      scratch.value = {value, in.value.stride};
      return;
    }
  }
  const int64_t width = scratch.width;
  for (int64_t j = 0; j < keys; ++j) {
    LoadRow(key + j * in.key.stride, dim, 1, scratch.key_copy + j * width);
    Turn<false>(problem, j, scratch.key_copy + j * width);
    LoadRow(value + j * in.value.stride, dim, 1, scratch.value_copy + j * width);
  }
  scratch.key = {scratch.key_copy, width};
  scratch.value = {scratch.value_copy, width};
}

// Asks for the next pair's rows of `width` values while this one's are computed: strides are too long for the CPU to
// guess.
template <typename T>
void PrefetchRows(const AttentionColumns<const T>& from, const int64_t* offsets, int64_t row, int64_t column,
                  int64_t width) {
  if (offsets[row + 1] - offsets[row] > kShort) return;
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = offsets[row]; i < offsets[row + 1]; ++i) {
    for (int64_t at = 0; at < width; at += kLine) hwy::Prefetch(from.data + i * from.stride + column + at);
  }
}

template <typename T>
void PrefetchPair(const AttentionProblem& problem, const AttentionInputs<T>& in, int64_t row, int64_t key_head) {
  const int64_t width = problem.head_dim, group = problem.heads / problem.key_heads;
  PrefetchRows(in.key, problem.key_offsets, row, key_head * width, width);
  PrefetchRows(in.value, problem.key_offsets, row, key_head * width, width);
  PrefetchRows(in.query, problem.query_offsets, row, key_head * group * width, group * width);
}

void ClearLanesBeyond(const Block& block, int64_t width, float* rows) {
  std::fill(rows + block.count * width, rows + block.lanes * width, 0.0f);
}

// Scores come out as binary logarithms of the weights.
template <typename T>
void LoadQueries(const AttentionProblem& problem, const AttentionInputs<T>& in, const Block& block, Scratch& scratch) {
  const int64_t dim = problem.head_dim, width = scratch.width;
  const float scale = Scale(problem) * kLog2E;
  for (int64_t i = 0; i < block.count; ++i) {
    LoadRow(in.query.data + block.query[i] * in.query.stride + block.head[i] * dim, dim, scale,
            scratch.query + i * width);
    Turn<false>(problem, static_cast<int64_t>(block.position[i]), scratch.query + i * width);
  }
  ClearLanesBeyond(block, width, scratch.query);
  Transpose(scratch.query, block.lanes, width, scratch.transposed_query);
}

}  // namespace weft::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // WEFT_KERNELS_ATTENTION_BLOCKS_INL_H_
