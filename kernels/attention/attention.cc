#include "kernels/attention/attention.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

// Compiled once per SIMD target; the best that the CPU has is taken at run time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/attention.cc"
#include <hwy/foreach_target.h>  // before highway.h
#include <hwy/highway.h>

#include "kernels/attention/blocks-inl.h"

// A block of queries at a time: lanes are queries, so that the softmax needs no sums across lanes, and the block's
// scores against all keys stay in the cache. With Q^T of the block, S^T = K Q^T and out = P V; gradients: G^T = V dO^T,
// dS = P (G - sum over keys of P G), dQ = dS K, dK += dS^T Q, dV += P^T dO. All of them are Multiply.
HWY_BEFORE_NAMESPACE();
namespace weft::kernels::HWY_NAMESPACE {

// to [keys seen, lanes] = rows of `keys` times the transposed block.
void Scores(const AttentionProblem& problem, const Block& block, AttentionColumns<const float> keys,
            const float* transposed, float* to) {
  Multiply<false, false>({.a = keys.data + block.first * keys.stride,
                          .a_stride = keys.stride,
                          .b = transposed,
                          .b_stride = block.lanes,
                          .c = to,
                          .c_stride = block.lanes,
                          .rows = block.last - block.first,
                          .columns = block.lanes,
                          .depth = problem.head_dim});
}

HWY_INLINE bool SeenByAll(const Block& block, int64_t key) { return key >= block.all_first && key < block.all_last; }

// Which lanes of vector v see the key.
HWY_INLINE hn::Mask<F32> Sees(const Block& block, int64_t key, int64_t v) {
  const F32 d;
  const Floats distance = hn::Sub(hn::Load(d, block.position + v * kLanes), hn::Set(d, static_cast<float>(key)));
  return hn::And(hn::Ge(distance, hn::Zero(d)), hn::Lt(distance, hn::Set(d, block.window)));
}

// Hides scores of keys that a query does not see; the largest of the others per query.
template <int64_t kVectors>
HWY_INLINE void HideAndFindLargest(const Block& block, float* score, Floats (&largest)[kVectors]) {
  const F32 d;
  const Floats hidden = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t v = 0; v < kVectors; ++v) largest[v] = hidden;
  for (int64_t key = block.first; key < block.last; ++key, score += kVectors * kLanes) {
    const bool seen_by_all = SeenByAll(block, key);
    for (int64_t v = 0; v < kVectors; ++v) {
      Floats value = hn::Load(d, score + v * kLanes);
      if (!seen_by_all) {
        value = hn::IfThenElse(Sees(block, key, v), value, hidden);
        hn::Store(value, d, score + v * kLanes);
      }
      largest[v] = hn::Max(largest[v], value);
    }
  }
}

// Softmax of the block's scores, times values: scratch.out, still to be divided by the sums in `sum`; and its
// logarithm.
template <int64_t kVectors>
void SoftmaxTimesValues(const Block& block, Scratch& scratch, float* sum, float* log_sum) {
  const F32 d;
  Floats largest[kVectors], sums[kVectors];
  HideAndFindLargest<kVectors>(block, scratch.weight, largest);
  for (int64_t v = 0; v < kVectors; ++v) sums[v] = hn::Zero(d);
  for (int64_t key = block.first; key < block.last; key += kKeyBlock) {
    const int64_t keys = std::min(kKeyBlock, block.last - key);
    float* weight = scratch.weight + (key - block.first) * block.lanes;
    for (int64_t j = 0; j < keys; ++j) {
      for (int64_t v = 0; v < kVectors; ++v) {
        float* at = weight + (j * kVectors + v) * kLanes;
        const Floats value = Exp2(hn::Sub(hn::Load(d, at), largest[v]));
        sums[v] = hn::Add(sums[v], value);
        hn::Store(value, d, at);
      }
    }
    const Product product = {.a = weight,
                             .a_stride = block.lanes,
                             .b = scratch.value.data + key * scratch.value.stride,
                             .b_stride = scratch.value.stride,
                             .c = scratch.out,
                             .c_stride = scratch.width,
                             .rows = block.count,
                             .columns = scratch.width,
                             .depth = keys};
    if (key == block.first) {
      Multiply<false, true>(product);
    } else {
      Multiply<true, true>(product);
    }
  }
  for (int64_t v = 0; v < kVectors; ++v) {
    hn::Store(sums[v], d, sum + v * kLanes);
    const Floats log = hn::Add(largest[v], hn::Log2(d, sums[v]));
    hn::Store(hn::IfThenElse(hn::IsNaN(sums[v]), sums[v], log), d, log_sum + v * kLanes);
  }
}

template <typename T>
void Forward(const AttentionProblem& problem, const AttentionInputs<T>& in, AttentionColumns<T> out, float* log_sum,
             const AttentionItem* items, int64_t count) {
  int64_t longest = 0;
  for (int64_t i = 0; i < count; ++i) {
    longest = std::max(longest, problem.key_offsets[items[i].row + 1] - problem.key_offsets[items[i].row]);
  }
  Scratch scratch(problem, longest, /*backward=*/false);
  HWY_ALIGN float sum[kBlock], log[kBlock];
  for (int64_t i = 0; i < count; ++i) {
    const AttentionItem& item = items[i];
    if (i == 0 || items[i - 1].row != item.row || items[i - 1].key_head != item.key_head) {
      LoadKeysAndValues(problem, in, item.row, item.key_head, scratch);
      if (i + 1 < count) PrefetchPair(problem, in, items[i + 1].row, items[i + 1].key_head);
    }
    for (int64_t begin = item.begin; begin < item.end; begin += kBlock) {
      const Block block = DescribeBlock(problem, item.row, item.key_head, begin, item.end);
      LoadQueries(problem, in, block, scratch);
      Scores(problem, block, scratch.key, scratch.transposed_query, scratch.weight);
      (block.lanes > kLanes ? SoftmaxTimesValues<2> : SoftmaxTimesValues<1>)(block, scratch, sum, log);
      for (int64_t q = 0; q < block.count; ++q) {
        log_sum[block.query[q] * problem.heads + block.head[q]] = log[q];
        StoreRow(scratch.out + q * scratch.width, problem.head_dim, 1 / sum[q],
                 out.data + block.query[q] * out.stride + block.head[q] * problem.head_dim);
      }
    }
  }
}

// From scores and the gradients of weights, in place: weights and the gradients of scores.
template <int64_t kVectors>
void SoftmaxGradient(const Block& block, const float* log_sum, float* weight, float* score) {
  const F32 d;
  Floats log[kVectors], mean[kVectors];
  for (int64_t v = 0; v < kVectors; ++v) {
    log[v] = hn::Load(d, log_sum + v * kLanes);
    mean[v] = hn::Zero(d);
  }
  for (int64_t key = block.first; key < block.last; ++key) {
    const bool seen_by_all = SeenByAll(block, key);
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t at = ((key - block.first) * kVectors + v) * kLanes;
      Floats value = Exp2(hn::Sub(hn::Load(d, weight + at), log[v]));
      if (!seen_by_all) value = hn::IfThenElseZero(Sees(block, key, v), value);
      hn::Store(value, d, weight + at);
      mean[v] = hn::MulAdd(value, hn::Load(d, score + at), mean[v]);
    }
  }
  for (int64_t key = 0; key < block.last - block.first; ++key) {
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t at = (key * kVectors + v) * kLanes;
      const Floats centred = hn::Sub(hn::Load(d, score + at), mean[v]);
      hn::Store(hn::Mul(hn::Load(d, weight + at), centred), d, score + at);
    }
  }
}

// dK, dV and dQ of a block from its weights and the gradients of its scores.
void AddGradients(const Block& block, Scratch& scratch) {
  for (int64_t key = block.first; key < block.last; key += kKeyBlock) {
    const int64_t keys = std::min(kKeyBlock, block.last - key), width = scratch.width;
    const float *score = scratch.score + (key - block.first) * block.lanes,
                *weight = scratch.weight + (key - block.first) * block.lanes;
    Product product = {.a = score,
                       .a_stride = block.lanes,
                       .b = scratch.key.data + key * scratch.key.stride,
                       .b_stride = scratch.key.stride,
                       .c = scratch.query_gradient,
                       .c_stride = width,
                       .rows = block.count,
                       .columns = width,
                       .depth = keys};
    if (key == block.first) {
      Multiply<false, true>(product);
    } else {
      Multiply<true, true>(product);
    }
    product.rows = keys;
    product.depth = block.count;
    product.b = scratch.query;
    product.b_stride = width;
    product.c = scratch.key_gradient + key * width;
    Multiply<true, false>(product);
    product.a = weight;
    product.b = scratch.out;
    product.c = scratch.value_gradient + key * width;
    Multiply<true, false>(product);
  }
}

template <typename T>
void BackwardBlock(const AttentionProblem& problem, const AttentionInputs<T>& in, const float* log_sum,
                   AttentionColumns<const T> out_gradient, AttentionColumns<T> query_gradient, const Block& block,
                   Scratch& scratch) {
  const int64_t dim = problem.head_dim, width = scratch.width;
  HWY_ALIGN float log[kBlock] = {};
  LoadQueries(problem, in, block, scratch);
  for (int64_t q = 0; q < block.count; ++q) {
    log[q] = log_sum[block.query[q] * problem.heads + block.head[q]];
    LoadRow(out_gradient.data + block.query[q] * out_gradient.stride + block.head[q] * dim, dim, 1,
            scratch.out + q * width);
  }
  ClearLanesBeyond(block, width, scratch.out);
  Transpose(scratch.out, block.lanes, width, scratch.transposed_out);
  Scores(problem, block, scratch.key, scratch.transposed_query, scratch.weight);
  Scores(problem, block, scratch.value, scratch.transposed_out, scratch.score);
  (block.lanes > kLanes ? SoftmaxGradient<2> : SoftmaxGradient<1>)(block, log, scratch.weight, scratch.score);
  AddGradients(block, scratch);
  for (int64_t q = 0; q < block.count; ++q) {
    Turn<true>(problem, static_cast<int64_t>(block.position[q]), scratch.query_gradient + q * width);
    StoreRow(scratch.query_gradient + q * width, dim, Scale(problem),
             query_gradient.data + block.query[q] * query_gradient.stride + block.head[q] * dim);
  }
}

template <typename T>
void Backward(const AttentionProblem& problem, const AttentionInputs<T>& in, const float* log_sum,
              AttentionColumns<const T> out_gradient, const AttentionGradients<T>& gradients, int64_t begin,
              int64_t end) {
  int64_t longest = 0;
  for (int64_t row = begin / problem.key_heads; row * problem.key_heads < end; ++row) {
    longest = std::max(longest, problem.key_offsets[row + 1] - problem.key_offsets[row]);
  }
  Scratch scratch(problem, longest, /*backward=*/true);
  const int64_t dim = problem.head_dim, width = scratch.width, group = problem.heads / problem.key_heads;
  for (int64_t pair = begin; pair < end; ++pair) {
    const int64_t row = pair / problem.key_heads, key_head = pair % problem.key_heads;
    const int64_t first_key = problem.key_offsets[row], keys = problem.key_offsets[row + 1] - first_key;
    LoadKeysAndValues(problem, in, row, key_head, scratch);
    if (pair + 1 < end) {
      const int64_t next_row = (pair + 1) / problem.key_heads, next_head = (pair + 1) % problem.key_heads;
      PrefetchPair(problem, in, next_row, next_head);
      PrefetchRows(out_gradient, problem.query_offsets, next_row, next_head * group * dim, group * dim);
    }
    std::fill_n(scratch.key_gradient, keys * width, 0.0f);
    std::fill_n(scratch.value_gradient, keys * width, 0.0f);
    const int64_t queries = (problem.query_offsets[row + 1] - problem.query_offsets[row]) * group;
    for (int64_t query = 0; query < queries; query += kBlock) {
      const Block block = DescribeBlock(problem, row, key_head, query, queries);
      BackwardBlock(problem, in, log_sum, out_gradient, gradients.query, block, scratch);
    }
    for (int64_t j = 0; j < keys; ++j) {
      float* key = scratch.key_gradient + j * width;
      Turn<true>(problem, j, key);
      // Queries were scaled for binary logarithms.
      StoreRow(key, dim, kLn2, gradients.key.data + (first_key + j) * gradients.key.stride + key_head * dim);
      StoreRow(scratch.value_gradient + j * width, dim, 1,
               gradients.value.data + (first_key + j) * gradients.value.stride + key_head * dim);
    }
  }
}

// Overloads and templates have no place in the table of targets.
void ForwardF32(const AttentionProblem& problem, const AttentionInputs<float>& in, AttentionColumns<float> out,
                float* log_sum, const AttentionItem* items, int64_t count) {
  Forward<float>(problem, in, out, log_sum, items, count);
}
void ForwardBf16(const AttentionProblem& problem, const AttentionInputs<uint16_t>& in, AttentionColumns<uint16_t> out,
                 float* log_sum, const AttentionItem* items, int64_t count) {
  Forward<uint16_t>(problem, in, out, log_sum, items, count);
}
void BackwardF32(const AttentionProblem& problem, const AttentionInputs<float>& in, const float* log_sum,
                 AttentionColumns<const float> out_gradient, const AttentionGradients<float>& gradients, int64_t begin,
                 int64_t end) {
  Backward<float>(problem, in, log_sum, out_gradient, gradients, begin, end);
}
void BackwardBf16(const AttentionProblem& problem, const AttentionInputs<uint16_t>& in, const float* log_sum,
                  AttentionColumns<const uint16_t> out_gradient, const AttentionGradients<uint16_t>& gradients,
                  int64_t begin, int64_t end) {
  Backward<uint16_t>(problem, in, log_sum, out_gradient, gradients, begin, end);
}

}  // namespace weft::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::kernels {

HWY_EXPORT(ForwardF32);
HWY_EXPORT(ForwardBf16);
HWY_EXPORT(BackwardF32);
HWY_EXPORT(BackwardBf16);

std::vector<AttentionItem> AttentionItems(const AttentionProblem& problem) {
  constexpr int64_t kQueries = 256;  // of an item: a multiple of every target's block
  std::vector<AttentionItem> items;
  for (int64_t row = 0; row < problem.rows; ++row) {
    const int64_t queries =
        (problem.query_offsets[row + 1] - problem.query_offsets[row]) * problem.heads / problem.key_heads;
    for (int64_t key_head = 0; key_head < problem.key_heads; ++key_head) {
      for (int64_t begin = 0; begin < queries; begin += kQueries) {
        items.push_back({.row = row, .key_head = key_head, .begin = begin, .end = std::min(begin + kQueries, queries)});
      }
    }
  }
  return items;
}

void AttentionForward(const AttentionProblem& problem, const AttentionInputs<float>& in, AttentionColumns<float> out,
                      float* log_sum, const AttentionItem* items, int64_t count) {
  HWY_DYNAMIC_DISPATCH(ForwardF32)(problem, in, out, log_sum, items, count);
}

void AttentionForward(const AttentionProblem& problem, const AttentionInputs<uint16_t>& in,
                      AttentionColumns<uint16_t> out, float* log_sum, const AttentionItem* items, int64_t count) {
  HWY_DYNAMIC_DISPATCH(ForwardBf16)(problem, in, out, log_sum, items, count);
}

void AttentionBackward(const AttentionProblem& problem, const AttentionInputs<float>& in, const float* log_sum,
                       AttentionColumns<const float> out_gradient, const AttentionGradients<float>& gradients,
                       int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(BackwardF32)(problem, in, log_sum, out_gradient, gradients, begin, end);
}

void AttentionBackward(const AttentionProblem& problem, const AttentionInputs<uint16_t>& in, const float* log_sum,
                       AttentionColumns<const uint16_t> out_gradient, const AttentionGradients<uint16_t>& gradients,
                       int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(BackwardBf16)(problem, in, log_sum, out_gradient, gradients, begin, end);
}

}  // namespace weft::kernels
#endif  // HWY_ONCE
