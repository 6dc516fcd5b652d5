#ifndef WEFT_TRAINING_OPS_ATTENTION_H_
#define WEFT_TRAINING_OPS_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "adapters/transformer.h"

namespace weft {

// Rows of tokens that are packed one after another, and who of them asks. Offsets are [rows + 1] int64 on the CPU.
struct AttentionRows {
  at::Tensor key_offsets;    // row i owns keys [key_offsets[i], key_offsets[i + 1]); none is without
  at::Tensor query_offsets;  // and these queries, possibly none
  // [queries] int64 on the CPU: which key of its row each query is. Undefined: each key asks, in order.
  at::Tensor query_positions;
};

// cos and sin of the angles by which rotary positions turn each position, times what the scaling says: [positions,
// rotated / 2] fp32, on the CPU and on the device that computes (the same tensor where that is the CPU).
struct RotaryTables {
  int64_t rotated = 0;  // 0: nothing turns
  at::Tensor cos, sin;
  at::Tensor device_cos, device_sin;
};
RotaryTables MakeRotaryTables(const RotaryPositions& rotary, int64_t positions, at::Device device);

struct AttentionShape {
  int64_t heads = 0;
  int64_t key_heads = 0;  // divides heads; query head h reads key head h * key_heads / heads
  int64_t head_dim = 0;
  bool causal = false;         // a query sees the keys of its row up to its own position
  int64_t sliding_window = 0;  // with causal: only the last this many of those; 0: all
};

// softmax(q k^T / sqrt(head_dim)) v within rows, per head. `packed` [tokens, (heads + 2 key_heads) head_dim]: queries,
// keys and values side by side, each turned to its position in its row by `rotary`. Returns [tokens, heads head_dim];
// differentiable. fp32 or bf16; inner sums are fp32. Columns of tokens beyond the last row's end: zero in the result
// and in gradients.
at::Tensor SelfAttention(const at::Tensor& packed, const AttentionRows& rows, const AttentionShape& shape,
                         const RotaryTables& rotary);

// The same where only some tokens ask: query [queries, heads head_dim], key_value [tokens, 2 key_heads head_dim].
// Returns [queries, heads head_dim]. Queries beyond query_offsets' end: zero, likewise.
at::Tensor PartialAttention(const at::Tensor& query, const at::Tensor& key_value, const AttentionRows& rows,
                            const AttentionShape& shape, const RotaryTables& rotary);

// Both by ATen's operators alone over rows padded to the longest: what runs off the CPU, and the check of what runs on
// it. query, key, value as above, apart.
at::Tensor PaddedAttention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                           const AttentionRows& rows, const AttentionShape& shape, const RotaryTables& rotary);

}  // namespace weft

#endif  // WEFT_TRAINING_OPS_ATTENTION_H_
