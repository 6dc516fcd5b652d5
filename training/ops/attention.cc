#include "training/ops/attention.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "kernels/attention/attention.h"

namespace weft {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

int64_t End(const at::Tensor& offsets) { return offsets.const_data_ptr<int64_t>()[offsets.size(0) - 1]; }

int64_t LongestRow(const at::Tensor& offsets) {
  const auto* offset = offsets.const_data_ptr<int64_t>();
  int64_t longest = 0;
  for (int64_t row = 0; row + 1 < offsets.size(0); ++row) longest = std::max(longest, offset[row + 1] - offset[row]);
  return longest;
}

// What the kernel and ATen's operators would read past without a word.
void Check(const at::Tensor& x, int64_t heads, const AttentionRows& rows, const AttentionShape& shape,
           const RotaryTables& rotary) {
  TORCH_CHECK(x.dim() == 2 && x.size(1) == heads * shape.head_dim, "attention: found a tensor of shape ", x.sizes(),
              ", expected [tokens, ", heads, " * ", shape.head_dim, "]; give the heads that the shape names");
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16, "attention: found ", x.scalar_type(),
              ", expected fp32 or bf16; convert it first");
  TORCH_CHECK(rotary.rotated == 0 || LongestRow(rows.key_offsets) <= rotary.cos.size(0), "attention: found a row of ",
              LongestRow(rows.key_offsets), " tokens, expected at most ", rotary.cos.size(0),
              "; make the rotary tables for more positions");
}

// Kernels read rows at any distance, but values of a row side by side.
at::Tensor WithDenseRows(const at::Tensor& x) { return x.stride(1) == 1 ? x : x.contiguous(); }

// As [tokens, columns] of `like`, with rows from `used` on (which the kernels never write) zero.
at::Tensor EmptyRows(const at::Tensor& like, int64_t columns, int64_t used) {
  const at::Tensor result = at::empty({like.size(0), columns}, like.options());
  result.slice(0, used).zero_();
  return result;
}

template <typename T>
kernels::AttentionColumns<const T> ColumnsOf(const at::Tensor& x, int64_t first = 0) {
  return {static_cast<const T*>(x.const_data_ptr()) + first, x.stride(0)};
}

template <typename T>
kernels::AttentionColumns<T> MutableColumnsOf(const at::Tensor& x, int64_t first = 0) {
  return {static_cast<T*>(x.mutable_data_ptr()) + first, x.stride(0)};
}

// Queries are the first columns of one tensor; keys and values, side by side, those of another or further ones of it.
class Packed {
 public:
  Packed(const at::Tensor& query, const std::optional<at::Tensor>& key_value, const AttentionRows& rows,
         const AttentionShape& shape, const RotaryTables& rotary)
      : query_(query),
        key_value_(key_value.value_or(query)),
        key_column_(key_value.has_value() ? 0 : shape.heads * shape.head_dim),
        value_column_(key_column_ + shape.key_heads * shape.head_dim),
        problem_{.key_offsets = rows.key_offsets.const_data_ptr<int64_t>(),
                 .query_offsets = rows.query_offsets.const_data_ptr<int64_t>(),
                 .query_positions =
                     rows.query_positions.defined() ? rows.query_positions.const_data_ptr<int64_t>() : nullptr,
                 .rows = rows.key_offsets.size(0) - 1,
                 .heads = shape.heads,
                 .key_heads = shape.key_heads,
                 .head_dim = shape.head_dim,
                 .causal = shape.causal,
                 .sliding_window = shape.sliding_window,
                 .rotated = rotary.rotated,
                 .cos = rotary.rotated > 0 ? rotary.cos.const_data_ptr<float>() : nullptr,
                 .sin = rotary.rotated > 0 ? rotary.sin.const_data_ptr<float>() : nullptr} {}

  template <typename T>
  void Forward(const at::Tensor& out, const at::Tensor& log_sum) const {
    const std::vector<kernels::AttentionItem> items = kernels::AttentionItems(problem_);
    at::parallel_for(0, static_cast<int64_t>(items.size()), 1, [&](int64_t begin, int64_t end) {
      kernels::AttentionForward(problem_, Inputs<T>(), MutableColumnsOf<T>(out), log_sum.mutable_data_ptr<float>(),
                                items.data() + begin, end - begin);
    });
  }

  template <typename T>
  void Backward(const at::Tensor& log_sum, const at::Tensor& out_gradient, const at::Tensor& query_gradient,
                const at::Tensor& key_value_gradient) const {
    const kernels::AttentionGradients<T> gradients = {MutableColumnsOf<T>(query_gradient),
                                                      MutableColumnsOf<T>(key_value_gradient, key_column_),
                                                      MutableColumnsOf<T>(key_value_gradient, value_column_)};
    at::parallel_for(0, problem_.rows * problem_.key_heads, 1, [&](int64_t begin, int64_t end) {
      kernels::AttentionBackward(problem_, Inputs<T>(), log_sum.const_data_ptr<float>(), ColumnsOf<T>(out_gradient),
                                 gradients, begin, end);
    });
  }

 private:
  template <typename T>
  kernels::AttentionInputs<T> Inputs() const {
    return {ColumnsOf<T>(query_), ColumnsOf<T>(key_value_, key_column_), ColumnsOf<T>(key_value_, value_column_)};
  }

  const at::Tensor query_, key_value_;
  const int64_t key_column_, value_column_;
  const kernels::AttentionProblem problem_;
};

// The CPU kernel as a differentiable function of one tensor or two.
class CpuAttention : public torch::autograd::Function<CpuAttention> {
 public:
  static Variable forward(AutogradContext* context, const at::Tensor& query_in,
                          const std::optional<at::Tensor>& key_value_in, const AttentionRows& rows,
                          const AttentionShape& shape, const RotaryTables& rotary) {
    const at::Tensor query = WithDenseRows(query_in);
    std::optional<at::Tensor> key_value;
    if (key_value_in.has_value()) key_value = WithDenseRows(*key_value_in);
    const at::Tensor out = EmptyRows(query, shape.heads * shape.head_dim, End(rows.query_offsets)),
                     log_sum = at::empty({query.size(0), shape.heads}, query.options().dtype(at::kFloat));
    const Packed packed(query, key_value, rows, shape, rotary);
    if (query.scalar_type() == at::kFloat) {
      packed.Forward<float>(out, log_sum);
    } else {
      packed.Forward<uint16_t>(out, log_sum);
    }
    context->save_for_backward({query, key_value.value_or(at::Tensor()), rows.key_offsets, rows.query_offsets,
                                rows.query_positions, rotary.cos, rotary.sin, log_sum});
    context->saved_data["shape"] = std::vector<int64_t>{shape.heads,          shape.key_heads, shape.head_dim,
                                                        shape.sliding_window, shape.causal,    rotary.rotated};
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& out_gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &query = saved[0], &log_sum = saved[7];
    std::optional<at::Tensor> key_value;
    if (saved[1].defined()) key_value = saved[1];
    const std::vector<int64_t> numbers = context->saved_data["shape"].toIntVector();
    const AttentionShape shape = {.heads = numbers[0],
                                  .key_heads = numbers[1],
                                  .head_dim = numbers[2],
                                  .causal = numbers[4] != 0,
                                  .sliding_window = numbers[3]};
    const AttentionRows rows = {.key_offsets = saved[2], .query_offsets = saved[3], .query_positions = saved[4]};
    const RotaryTables rotary = {
        .rotated = numbers[5], .cos = saved[5], .sin = saved[6], .device_cos = {}, .device_sin = {}};
    const at::Tensor query_gradient = EmptyRows(query, query.size(1), End(rows.query_offsets));
    at::Tensor key_value_gradient;
    if (key_value.has_value()) key_value_gradient = EmptyRows(*key_value, key_value->size(1), End(rows.key_offsets));
    const Packed packed(query, key_value, rows, shape, rotary);
    const at::Tensor out_gradient = WithDenseRows(out_gradients[0]);
    const at::Tensor& key_value_target = key_value.has_value() ? key_value_gradient : query_gradient;
    if (query.scalar_type() == at::kFloat) {
      packed.Backward<float>(log_sum, out_gradient, query_gradient, key_value_target);
    } else {
      packed.Backward<uint16_t>(log_sum, out_gradient, query_gradient, key_value_target);
    }
    return {query_gradient, key_value_gradient, Variable(), Variable(), Variable()};
  }
};

// On the CPU, for each packed token: its place in a matrix of rows padded to `longest`, and its position in its row.
struct Places {
  at::Tensor padded, position;  // [tokens] int64
};

Places PlacesOf(const at::Tensor& offsets, int64_t longest, const at::Tensor& positions) {
  Places places = {.padded = at::empty({End(offsets)}, at::kLong), .position = at::empty({End(offsets)}, at::kLong)};
  const auto* offset = offsets.const_data_ptr<int64_t>();
  auto *padded = places.padded.mutable_data_ptr<int64_t>(), *position = places.position.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row + 1 < offsets.size(0); ++row) {
    for (int64_t i = offset[row]; i < offset[row + 1]; ++i) {
      padded[i] = row * longest + i - offset[row];
      position[i] = positions.defined() ? positions.const_data_ptr<int64_t>()[i] : i - offset[row];
    }
  }
  return places;
}

// x [tokens, heads, head_dim] turned to its positions, in fp32.
at::Tensor Turned(const at::Tensor& x, const at::Tensor& position, const RotaryTables& rotary) {
  if (rotary.rotated == 0) return x;
  const int64_t half = rotary.rotated / 2;
  const at::Tensor cos = rotary.device_cos.index_select(0, position).unsqueeze(1),
                   sin = rotary.device_sin.index_select(0, position).unsqueeze(1);
  const at::Tensor first = x.slice(2, 0, half).to(at::kFloat), second = x.slice(2, half, 2 * half).to(at::kFloat);
  return at::cat({(first * cos - second * sin).to(x.scalar_type()), (second * cos + first * sin).to(x.scalar_type()),
                  x.slice(2, 2 * half)},
                 2);
}

// Which keys [rows, 1, queries or 1, keys] a query sees. Padded queries are given position 0: key 0 is always there.
at::Tensor Mask(const AttentionRows& rows, const AttentionShape& shape, const Places& queries, int64_t longest_query,
                int64_t keys, at::Device device) {
  const int64_t count = rows.key_offsets.size(0) - 1;
  const at::Tensor lengths = rows.key_offsets.slice(0, 1) - rows.key_offsets.slice(0, 0, -1);
  const at::Tensor key = at::arange(keys, at::TensorOptions(at::kLong).device(device)).view({1, 1, 1, keys});
  const at::Tensor present = key < lengths.to(device).view({count, 1, 1, 1});
  if (!shape.causal) return present;
  const at::Tensor position = at::zeros({count * longest_query}, at::kLong)
                                  .index_copy(0, queries.padded, queries.position)
                                  .to(device)
                                  .view({count, 1, longest_query, 1});
  const at::Tensor mask = present & (key <= position);
  return shape.sliding_window > 0 ? mask & (key > position - shape.sliding_window) : mask;
}

}  // namespace

at::Tensor SelfAttention(const at::Tensor& packed, const AttentionRows& rows, const AttentionShape& shape,
                         const RotaryTables& rotary) {
  Check(packed, shape.heads + 2 * shape.key_heads, rows, shape, rotary);
  if (packed.device().is_cpu()) return CpuAttention::apply(packed, std::nullopt, rows, shape, rotary);
  const int64_t query = shape.heads * shape.head_dim, key = shape.key_heads * shape.head_dim;
  return PaddedAttention(packed.slice(1, 0, query), packed.slice(1, query, query + key), packed.slice(1, query + key),
                         rows, shape, rotary);
}

at::Tensor PartialAttention(const at::Tensor& query, const at::Tensor& key_value, const AttentionRows& rows,
                            const AttentionShape& shape, const RotaryTables& rotary) {
  Check(query, shape.heads, rows, shape, rotary);
  Check(key_value, 2 * shape.key_heads, rows, shape, rotary);
  if (query.device().is_cpu()) {
    return CpuAttention::apply(query, std::optional<at::Tensor>(key_value), rows, shape, rotary);
  }
  const int64_t key = shape.key_heads * shape.head_dim;
  return PaddedAttention(query, key_value.slice(1, 0, key), key_value.slice(1, key), rows, shape, rotary);
}

at::Tensor PaddedAttention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                           const AttentionRows& rows, const AttentionShape& shape, const RotaryTables& rotary) {
  const at::Device device = query.device();
  const int64_t count = rows.key_offsets.size(0) - 1, group = shape.heads / shape.key_heads;
  const int64_t queries = LongestRow(rows.query_offsets), keys = LongestRow(rows.key_offsets);
  if (queries == 0) return query * 0;
  const Places query_places = PlacesOf(rows.query_offsets, queries, rows.query_positions),
               key_places = PlacesOf(rows.key_offsets, keys, at::Tensor());
  const at::Tensor query_at = query_places.padded.to(device), key_at = key_places.padded.to(device);
  const auto heads_of = [&](const at::Tensor& packed, const at::Tensor& at) {  // [tokens, heads, head_dim]
    return packed.slice(0, 0, at.size(0)).unflatten(1, {-1, shape.head_dim});
  };
  const auto pad = [&](const at::Tensor& x, const at::Tensor& at,
                       int64_t longest) {  // [rows, heads, longest, head_dim]
    return at::zeros({count * longest, x.size(1), x.size(2)}, x.options())
        .index_copy(0, at, x)
        .view({count, longest, x.size(1), x.size(2)})
        .transpose(1, 2);
  };
  const at::Tensor q = Turned(heads_of(query, query_at), query_places.position.to(device), rotary),
                   k = Turned(heads_of(key, key_at), key_places.position.to(device), rotary);
  const at::Tensor out =
      at::scaled_dot_product_attention(pad(q, query_at, queries), pad(k, key_at, keys).repeat_interleave(group, 1),
                                       pad(heads_of(value, key_at), key_at, keys).repeat_interleave(group, 1),
                                       Mask(rows, shape, query_places, queries, keys, device));
  const at::Tensor packed = out.transpose(1, 2).reshape({count * queries, query.size(1)}).index_select(0, query_at);
  return at::constant_pad_nd(packed, {0, 0, 0, query.size(0) - packed.size(0)});
}

}  // namespace weft
