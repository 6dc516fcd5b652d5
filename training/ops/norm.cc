#include "training/ops/norm.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "kernels/norm/norm.h"
#include "training/ops/composed.h"
#include "training/ops/elements.h"

namespace weft {
namespace {

using kernels::NormBackwardRows;
using kernels::NormForwardRows;
using kernels::NormRows;
using kernels::NormWeights;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

NormWeights WeightsOf(const FrozenNorm& norm) {
  return {.weight = norm.weight.const_data_ptr<float>(),
          .bias = norm.bias.defined() ? norm.bias.const_data_ptr<float>() : nullptr,
          .width = norm.weight.size(0),
          .epsilon = static_cast<float>(norm.epsilon),
          .rms = norm.rms};
}

// No rows of an undefined tensor.
template <typename T>
NormRows<const T> Read(const at::Tensor& matrix) {
  if (!matrix.defined()) return {};
  return {ConstData<T>(matrix), matrix.stride(0)};
}

template <typename T>
NormRows<T> Write(const at::Tensor& matrix) {
  if (!matrix.defined()) return {};
  return {MutableData<T>(matrix), matrix.stride(0)};
}

float* DataOrNull(const at::Tensor& statistic) {
  return statistic.defined() ? statistic.mutable_data_ptr<float>() : nullptr;
}

const float* ConstDataOrNull(const at::Tensor& statistic) {
  return statistic.defined() ? statistic.const_data_ptr<float>() : nullptr;
}

struct Normed {
  at::Tensor sum, out;    // sum: x itself where nothing is added
  at::Tensor mean, rstd;  // [n] fp32; undefined unless kept
};

Normed NormaliseOnCpu(const at::Tensor& x_in, const at::Tensor& residual_in, const FrozenNorm& norm, bool keep) {
  const at::Tensor x = WithDenseRows(x_in), residual = residual_in.defined() ? WithDenseRows(residual_in) : residual_in;
  const int64_t rows = x.size(0), width = x.size(1);
  Normed normed;
  normed.sum = residual.defined() ? at::empty({rows, width}, x.options()) : x;
  normed.out = at::empty({rows, width}, x.options());
  if (keep) normed.rstd = at::empty({rows}, x.options().dtype(at::kFloat));
  if (keep && !norm.rms) normed.mean = at::empty({rows}, x.options().dtype(at::kFloat));
  const NormWeights weights = WeightsOf(norm);
  WithElement(x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const NormForwardRows<T> all = {.x = Read<T>(x),
                                    .residual = Read<T>(residual),
                                    .sum = residual.defined() ? Write<T>(normed.sum) : NormRows<T>{},
                                    .out = Write<T>(normed.out),
                                    .mean = DataOrNull(normed.mean),
                                    .rstd = DataOrNull(normed.rstd)};
    at::parallel_for(0, rows, RowsPerThread(width),
                     [&](int64_t begin, int64_t end) { kernels::NormForward(weights, all, begin, end); });
  });
  return normed;
}

// norm(x), or the pair of x + residual and its norm.
class CpuNorm : public torch::autograd::Function<CpuNorm> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const std::optional<at::Tensor>& residual,
                               const FrozenNorm& norm) {
    const Normed normed = NormaliseOnCpu(x, residual.value_or(at::Tensor()), norm, /*keep=*/true);
    context->set_materialize_grads(false);
    context->save_for_backward({normed.sum, norm.weight, normed.mean, normed.rstd});
    context->saved_data["rms"] = norm.rms;
    if (!residual.has_value()) return {normed.out};
    return {normed.sum, normed.out};
  }

  static variable_list backward(AutogradContext* context, const variable_list& out_gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &mean = saved[2], &rstd = saved[3];
    const bool added = out_gradients.size() == 2;
    const at::Tensor sum_gradient =
        added && out_gradients[0].defined() ? WithDenseRows(out_gradients[0]) : at::Tensor();
    if (!out_gradients.back().defined()) return {sum_gradient, sum_gradient, Variable()};
    const at::Tensor out_gradient = WithDenseRows(out_gradients.back());
    const at::Tensor gradient = at::empty({x.size(0), x.size(1)}, x.options());
    const NormWeights weights = WeightsOf({.weight = saved[1], .bias = {}, .rms = context->saved_data["rms"].toBool()});
    WithElement(x.scalar_type(), [&](auto element) {
      using T = decltype(element);
      const NormBackwardRows<T> rows = {.x = Read<T>(x),
                                        .mean = ConstDataOrNull(mean),
                                        .rstd = rstd.const_data_ptr<float>(),
                                        .out_gradient = Read<T>(out_gradient),
                                        .sum_gradient = Read<T>(sum_gradient),
                                        .gradient = Write<T>(gradient)};
      at::parallel_for(0, x.size(0), RowsPerThread(x.size(1)),
                       [&](int64_t begin, int64_t end) { kernels::NormBackward(weights, rows, begin, end); });
    });
    return {gradient, added ? gradient : Variable(), Variable()};
  }
};

// Norms of the leading heads of each row.
struct HeadNorms {
  int64_t first, second;  // heads
  FrozenNorm first_norm, second_norm;
  int64_t heads() const { return first + second; }
  int64_t head_dim() const { return first_norm.weight.size(0); }
  bool keeps_mean() const { return !first_norm.rms || !second_norm.rms; }
};

// f(weights, column of the first head, first head, heads) for each of the two runs of heads.
template <typename F>
void ForEachRun(const HeadNorms& norms, const F& f) {
  if (norms.first > 0) f(WeightsOf(norms.first_norm), 0, 0, norms.first);
  if (norms.second > 0) {
    f(WeightsOf(norms.second_norm), norms.first * norms.head_dim(), norms.first, norms.second);
  }
}

// Undefined mean, rstd: not kept.
template <typename T>
void ForwardHeads(const HeadNorms& norms, const at::Tensor& x, const at::Tensor& out, const at::Tensor& mean,
                  const at::Tensor& rstd) {
  const int64_t dim = norms.head_dim(), end_of_heads = norms.heads() * dim;
  const NormRows<const T> from = Read<T>(x);
  const NormRows<T> to = Write<T>(out);
  float *means = DataOrNull(mean), *rstds = DataOrNull(rstd);
  at::parallel_for(0, x.size(0), RowsPerThread(x.size(1)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      ForEachRun(norms, [&](const NormWeights& weights, int64_t column, int64_t head, int64_t heads) {
        const int64_t at = row * norms.heads() + head;
        const NormForwardRows<T> rows = {.x = {from.Row(row) + column, dim},
                                         .residual = {},
                                         .sum = {},
                                         .out = {to.Row(row) + column, dim},
                                         .mean = means == nullptr ? nullptr : means + at,
                                         .rstd = rstds == nullptr ? nullptr : rstds + at};
        kernels::NormForward(weights, rows, 0, heads);
      });
      std::copy(from.Row(row) + end_of_heads, from.Row(row) + x.size(1), to.Row(row) + end_of_heads);
    }
  });
}

template <typename T>
void BackwardHeads(const HeadNorms& norms, const at::Tensor& x, const at::Tensor& out_gradient, const at::Tensor& mean,
                   const at::Tensor& rstd, const at::Tensor& gradient) {
  const int64_t dim = norms.head_dim(), end_of_heads = norms.heads() * dim;
  const NormRows<const T> from = Read<T>(x), of_out = Read<T>(out_gradient);
  const NormRows<T> to = Write<T>(gradient);
  const float *means = ConstDataOrNull(mean), *rstds = rstd.const_data_ptr<float>();
  at::parallel_for(0, x.size(0), RowsPerThread(x.size(1)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      ForEachRun(norms, [&](const NormWeights& weights, int64_t column, int64_t head, int64_t heads) {
        const int64_t at = row * norms.heads() + head;
        const NormBackwardRows<T> rows = {.x = {from.Row(row) + column, dim},
                                          .mean = means == nullptr ? nullptr : means + at,
                                          .rstd = rstds + at,
                                          .out_gradient = {of_out.Row(row) + column, dim},
                                          .sum_gradient = {},
                                          .gradient = {to.Row(row) + column, dim}};
        kernels::NormBackward(weights, rows, 0, heads);
      });
      std::copy(of_out.Row(row) + end_of_heads, of_out.Row(row) + x.size(1), to.Row(row) + end_of_heads);
    }
  });
}

at::Tensor NormaliseHeadsOnCpu(const HeadNorms& norms, const at::Tensor& x, const at::Tensor& mean,
                               const at::Tensor& rstd) {
  const at::Tensor out = at::empty({x.size(0), x.size(1)}, x.options());
  WithElement(x.scalar_type(), [&](auto element) { ForwardHeads<decltype(element)>(norms, x, out, mean, rstd); });
  return out;
}

class CpuHeadNorms : public torch::autograd::Function<CpuHeadNorms> {
 public:
  static Variable forward(AutogradContext* context, const at::Tensor& x_in, const HeadNorms& norms) {
    const at::Tensor x = WithDenseRows(x_in);
    const at::TensorOptions options = x.options().dtype(at::kFloat);
    const at::Tensor rstd = at::empty({x.size(0), norms.heads()}, options);
    const at::Tensor mean = norms.keeps_mean() ? at::empty({x.size(0), norms.heads()}, options) : at::Tensor();
    context->save_for_backward({x, norms.first_norm.weight, norms.second_norm.weight, mean, rstd});
    context->saved_data["first"] = norms.first;
    context->saved_data["second"] = norms.second;
    context->saved_data["first_rms"] = norms.first_norm.rms;
    context->saved_data["second_rms"] = norms.second_norm.rms;
    return NormaliseHeadsOnCpu(norms, x, mean, rstd);
  }

  static variable_list backward(AutogradContext* context, const variable_list& out_gradients) {
    const variable_list saved = context->get_saved_variables();
    const HeadNorms norms = {
        .first = context->saved_data["first"].toInt(),
        .second = context->saved_data["second"].toInt(),
        .first_norm = {.weight = saved[1], .bias = {}, .rms = context->saved_data["first_rms"].toBool()},
        .second_norm = {.weight = saved[2], .bias = {}, .rms = context->saved_data["second_rms"].toBool()}};
    const at::Tensor &x = saved[0], out_gradient = WithDenseRows(out_gradients[0]);
    const at::Tensor gradient = at::empty({x.size(0), x.size(1)}, x.options());
    WithElement(x.scalar_type(), [&](auto element) {
      BackwardHeads<decltype(element)>(norms, x, out_gradient, saved[3], saved[4], gradient);
    });
    return {gradient, Variable()};
  }
};

void CheckShapes(const at::Tensor& x, int64_t columns, bool more_may_follow, const FrozenNorm& norm) {
  TORCH_CHECK(x.dim() == 2 && (x.size(1) == columns || (more_may_follow && x.size(1) > columns)) &&
                  norm.weight.scalar_type() == at::kFloat,
              "found a matrix ", x.sizes(), " and weights of ", norm.weight.scalar_type(), ", expected rows of ",
              more_may_follow ? "at least " : "", columns, " elements and weights of Float");
}

bool NeedsGradient(const at::Tensor& x) { return at::GradMode::is_enabled() && x.requires_grad(); }

}  // namespace

at::Tensor Normalise(const at::Tensor& x, const FrozenNorm& norm) {
  if (!x.device().is_cpu()) return ComposedNorm(x, norm);
  CheckShapes(x, norm.weight.size(0), /*more_may_follow=*/false, norm);
  if (NeedsGradient(x)) return CpuNorm::apply(x, std::nullopt, norm)[0];
  return NormaliseOnCpu(x, {}, norm, /*keep=*/false).out;
}

std::pair<at::Tensor, at::Tensor> AddAndNormalise(const at::Tensor& x, const at::Tensor& residual,
                                                  const FrozenNorm& norm) {
  if (!x.device().is_cpu()) {
    const at::Tensor sum = x + residual;
    return {sum, ComposedNorm(sum, norm)};
  }
  CheckShapes(x, norm.weight.size(0), /*more_may_follow=*/false, norm);
  TORCH_CHECK(x.sizes() == residual.sizes() && x.scalar_type() == residual.scalar_type(), "found a residual ",
              residual.sizes(), " of ", residual.scalar_type(), ", expected ", x.sizes(), " of ", x.scalar_type());
  if (NeedsGradient(x) || NeedsGradient(residual)) {
    const variable_list both = CpuNorm::apply(x, residual, norm);
    return {both[0], both[1]};
  }
  const Normed normed = NormaliseOnCpu(x, residual, norm, /*keep=*/false);
  return {normed.sum, normed.out};
}

at::Tensor NormaliseHeads(const at::Tensor& x, int64_t first, const FrozenNorm& first_norm, int64_t second,
                          const FrozenNorm& second_norm) {
  if (!x.device().is_cpu()) return ComposedHeadNorms(x, first, first_norm, second, second_norm);
  const HeadNorms norms = {.first = first, .second = second, .first_norm = first_norm, .second_norm = second_norm};
  CheckShapes(x, norms.heads() * norms.head_dim(), /*more_may_follow=*/true, first_norm);
  if (NeedsGradient(x)) return CpuHeadNorms::apply(x, norms);
  return NormaliseHeadsOnCpu(norms, WithDenseRows(x), {}, {});
}

}  // namespace weft
