#include "training/models/attention.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "training/models/cpu_attention.h"

namespace weft {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

PackedAttentionShape ShapeOf(const at::Tensor& query, const at::Tensor& key, const at::Tensor& query_offsets,
                             const at::Tensor& key_offsets, int64_t heads) {
  return {.query_offsets = query_offsets.const_data_ptr<int64_t>(),
          .key_offsets = key_offsets.const_data_ptr<int64_t>(),
          .heads = heads,
          .head_dim = query.size(1) / heads,
          .query_stride = query.stride(0),
          .key_stride = key.stride(0)};
}

// As `like`, with places beyond the last row's end (which the kernel never writes) zeroed.
at::Tensor EmptyLike(const at::Tensor& like, const at::Tensor& offsets) {
  const at::Tensor result = at::empty_like(like);
  result.slice(0, offsets.const_data_ptr<int64_t>()[offsets.size(0) - 1]).zero_();
  return result;
}

// The CPU kernel as a differentiable function.
class CpuAttention : public torch::autograd::Function<CpuAttention> {
 public:
  static Variable forward(AutogradContext* context, const at::Tensor& query_in, const at::Tensor& key_in,
                          const at::Tensor& value_in, const at::Tensor& query_offsets, const at::Tensor& key_offsets,
                          int64_t heads) {
    const at::Tensor query = query_in.contiguous(), key = key_in.contiguous(), value = value_in.contiguous();
    const at::Tensor out = EmptyLike(query, query_offsets),
                     log_sum = at::empty({query.size(0), heads}, query.options());
    const PackedAttentionShape shape = ShapeOf(query, key, query_offsets, key_offsets, heads);
    at::parallel_for(0, (query_offsets.size(0) - 1) * heads, 1, [&](int64_t begin, int64_t end) {
      PackedAttentionForward(shape, query.const_data_ptr<float>(), key.const_data_ptr<float>(),
                             value.const_data_ptr<float>(), out.mutable_data_ptr<float>(),
                             log_sum.mutable_data_ptr<float>(), begin, end);
    });
    context->save_for_backward({query, key, value, query_offsets, key_offsets, log_sum});
    context->saved_data["heads"] = heads;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& out_gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &query = saved[0], &key = saved[1], &value = saved[2], &log_sum = saved[5];
    const int64_t heads = context->saved_data["heads"].toInt();
    const PackedAttentionShape shape = ShapeOf(query, key, saved[3], saved[4], heads);
    const at::Tensor out_gradient = out_gradients[0].contiguous();
    const at::Tensor query_gradient = EmptyLike(query, saved[3]), key_gradient = EmptyLike(key, saved[4]),
                     value_gradient = EmptyLike(value, saved[4]);
    const PackedAttentionGradients gradients = {.query = query_gradient.mutable_data_ptr<float>(),
                                                .key = key_gradient.mutable_data_ptr<float>(),
                                                .value = value_gradient.mutable_data_ptr<float>()};
    at::parallel_for(0, (saved[3].size(0) - 1) * heads, 1, [&](int64_t begin, int64_t end) {
      PackedAttentionBackward(shape, query.const_data_ptr<float>(), key.const_data_ptr<float>(),
                              value.const_data_ptr<float>(), log_sum.const_data_ptr<float>(),
                              out_gradient.const_data_ptr<float>(), gradients, begin, end);
    });
    return {query_gradient, key_gradient, value_gradient, Variable(), Variable(), Variable()};
  }
};

// Where each packed token lies in a matrix of rows padded to `longest`: [tokens] int64 on `device`.
at::Tensor PaddedPositions(const at::Tensor& offsets, int64_t longest, at::Device device) {
  const at::Tensor positions = at::empty({offsets[-1].item<int64_t>()}, offsets.options());
  const auto* offset = offsets.const_data_ptr<int64_t>();
  auto* position = positions.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row + 1 < offsets.size(0); ++row) {
    for (int64_t i = offset[row]; i < offset[row + 1]; ++i) position[i] = row * longest + i - offset[row];
  }
  return positions.to(device);
}

int64_t LongestRow(const at::Tensor& offsets) {
  return (offsets.slice(0, 1) - offsets.slice(0, 0, -1)).max().item<int64_t>();
}

}  // namespace

at::Tensor PackedAttention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                           const at::Tensor& query_offsets, const at::Tensor& key_offsets, int64_t heads) {
  if (query.device().is_cpu()) return CpuAttention::apply(query, key, value, query_offsets, key_offsets, heads);
  return PaddedAttention(query, key, value, query_offsets, key_offsets, heads);
}

at::Tensor PaddedAttention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                           const at::Tensor& query_offsets, const at::Tensor& key_offsets, int64_t heads) {
  const int64_t rows = key_offsets.size(0) - 1, hidden = query.size(1);
  const int64_t queries = LongestRow(query_offsets), keys = LongestRow(key_offsets);
  const at::Tensor query_at = PaddedPositions(query_offsets, queries, query.device());
  const at::Tensor key_at = PaddedPositions(key_offsets, keys, query.device());
  const auto pad = [&](const at::Tensor& packed, const at::Tensor& at,
                       int64_t longest) {  // [rows, heads, longest, head_dim]
    return at::zeros({rows * longest, hidden}, packed.options())
        .index_copy(0, at, packed.slice(0, 0, at.size(0)))
        .view({rows, longest, heads, hidden / heads})
        .transpose(1, 2);
  };
  const at::Tensor mask = at::zeros({rows * keys}, query.options().dtype(at::kBool)).index_fill_(0, key_at, true);
  const at::Tensor out = at::scaled_dot_product_attention(pad(query, query_at, queries), pad(key, key_at, keys),
                                                          pad(value, key_at, keys), mask.view({rows, 1, 1, keys}));
  const at::Tensor packed = out.transpose(1, 2).reshape({rows * queries, hidden}).index_select(0, query_at);
  return at::constant_pad_nd(packed, {0, 0, 0, query.size(0) - packed.size(0)});
}

}  // namespace weft
