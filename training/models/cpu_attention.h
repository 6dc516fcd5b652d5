#ifndef WEFT_TRAINING_MODELS_CPU_ATTENTION_H_
#define WEFT_TRAINING_MODELS_CPU_ATTENTION_H_

// Softmax attention over packed rows of text on the CPU: raw pointers, no torch, no threads of its own. Rows attend
// within themselves only. Meant for rows of tens to hundreds of tokens, where batched matrix products drown in their
// own overhead; the check is PaddedAttention in attention.h.

#include <cstdint>

namespace weft {

// All matrices are [tokens, heads * head_dim] row-major; head h is columns [h * head_dim, (h + 1) * head_dim).
struct PackedAttentionShape {
  const int64_t* query_offsets;  // [rows + 1]: row i owns queries [query_offsets[i], query_offsets[i + 1])
  const int64_t* key_offsets;    // [rows + 1]: and these keys and values; never empty
  int64_t heads;
  int64_t head_dim;
  int64_t query_stride;  // elements from one query to the next; likewise gradients of queries
  int64_t key_stride;    // likewise keys, values and their gradients
};

// out [queries, heads * head_dim] and log_sum [queries, heads] (logarithm of the softmax's denominator, for the
// backward pass) of the (row, head) pairs [begin, end), pair = row * heads + head. Pairs are independent, so any split
// over threads gives the same bits.
void PackedAttentionForward(const PackedAttentionShape& shape, const float* query, const float* key, const float* value,
                            float* out, float* log_sum, int64_t begin, int64_t end);

struct PackedAttentionGradients {
  float* query;
  float* key;  // written whole, not added to
  float* value;
};

// Gradients of the same pairs from the gradient of out; softmax values are computed again from log_sum.
void PackedAttentionBackward(const PackedAttentionShape& shape, const float* query, const float* key,
                             const float* value, const float* log_sum, const float* out_gradient,
                             const PackedAttentionGradients& gradients, int64_t begin, int64_t end);

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_CPU_ATTENTION_H_
