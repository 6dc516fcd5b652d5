#ifndef WEFT_TRAINING_MODELS_ATTENTION_H_
#define WEFT_TRAINING_MODELS_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace weft {

// Softmax attention within rows that are packed one after another: softmax(q k^T / sqrt(hidden / heads)) v per row and
// head. query [queries, hidden], key and value [tokens, hidden]; row i owns queries [query_offsets[i], query_offsets[i
// + 1]) and likewise keys; offsets are [rows + 1] int64 on the CPU, no row is without keys. Returns [queries, hidden];
// differentiable in query, key and value.
at::Tensor PackedAttention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                           const at::Tensor& query_offsets, const at::Tensor& key_offsets, int64_t heads);

// The same through tensors padded to the longest row and ATen's fused attention: what PackedAttention does off the CPU,
// where it is the faster way.
at::Tensor PaddedAttention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                           const at::Tensor& query_offsets, const at::Tensor& key_offsets, int64_t heads);

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_ATTENTION_H_
