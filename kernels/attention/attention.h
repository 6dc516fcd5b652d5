#ifndef WEFT_KERNELS_ATTENTION_ATTENTION_H_
#define WEFT_KERNELS_ATTENTION_ATTENTION_H_

// Softmax attention over packed rows on the CPU: raw pointers, no checks, no threads of its own. Tokens attend within
// their own row only. Meant for rows of tens of tokens, where batched matrix products drown in their own overhead, and
// sound for rows of thousands. Values are fp32 or bf16 (uint16_t bits), everything in between is fp32.

#include <cstdint>
#include <vector>

namespace weft::kernels {

struct AttentionProblem {
  const int64_t* key_offsets = nullptr;      // [rows + 1]: row i owns keys [key_offsets[i], key_offsets[i + 1])
  const int64_t* query_offsets = nullptr;    // [rows + 1]: and these queries; either may be none
  const int64_t* query_positions = nullptr;  // [queries]: which key of its row a query is; null: in order from 0
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t key_heads = 0;       // divides heads; query head h reads key head h * key_heads / heads
  int64_t head_dim = 0;        // up to 256
  bool causal = false;         // a query sees keys up to its own position, which must be one of its row
  int64_t sliding_window = 0;  // with causal: only the last this many of those; 0: all
  // Leading dimensions of queries and keys that turn with their position, i together with i + rotated / 2.
  int64_t rotated = 0;
  const float* cos = nullptr;  // [positions, rotated / 2]
  const float* sin = nullptr;
};

// Head h of token i is data[i * stride + h * head_dim], head_dim values in a row.
template <typename T>
struct AttentionColumns {
  T* data = nullptr;
  int64_t stride = 0;
};

template <typename T>
struct AttentionInputs {
  AttentionColumns<const T> query, key, value;
};

template <typename T>
struct AttentionGradients {
  AttentionColumns<T> query, key, value;  // written, not added to
};

// The forward pass of some queries of one row that read one key head. They are numbered head by head: query q of the
// row in the g-th of these heads is g * queries + q.
struct AttentionItem {
  int64_t row = 0;
  int64_t key_head = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

// All there is to do, in an order that loads no keys twice. Items are independent and their cut depends on the problem
// alone: any split over threads gives the same bits.
std::vector<AttentionItem> AttentionItems(const AttentionProblem& problem);

// out as query, and log_sum [queries, heads]: the binary logarithm of the softmax's denominator, for the backward pass.
void AttentionForward(const AttentionProblem& problem, const AttentionInputs<float>& in, AttentionColumns<float> out,
                      float* log_sum, const AttentionItem* items, int64_t count);
void AttentionForward(const AttentionProblem& problem, const AttentionInputs<uint16_t>& in,
                      AttentionColumns<uint16_t> out, float* log_sum, const AttentionItem* items, int64_t count);

// Gradients from those of out, for the pairs [begin, end), pair = row * key_heads + key head. Softmax values are
// computed again from log_sum. Pairs are independent, as items are.
void AttentionBackward(const AttentionProblem& problem, const AttentionInputs<float>& in, const float* log_sum,
                       AttentionColumns<const float> out_gradient, const AttentionGradients<float>& gradients,
                       int64_t begin, int64_t end);
void AttentionBackward(const AttentionProblem& problem, const AttentionInputs<uint16_t>& in, const float* log_sum,
                       AttentionColumns<const uint16_t> out_gradient, const AttentionGradients<uint16_t>& gradients,
                       int64_t begin, int64_t end);

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_ATTENTION_ATTENTION_H_
