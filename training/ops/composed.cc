#include "training/ops/composed.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tanh.h>

#include <optional>
#include <vector>

namespace weft {
namespace {

// Of fp32 as it is; fp64 stays, for checks.
at::Tensor Widened(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat); }

at::Tensor Activated(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return at::relu(x);
    case Activation::kTanh:
      return at::tanh(x);
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kSilu:
      return at::silu(x);
  }
  return x;
}

}  // namespace

at::Tensor ComposedNorm(const at::Tensor& x, const FrozenNorm& norm) {
  const at::Tensor wide = Widened(x), weight = norm.weight.to(wide.scalar_type());
  if (norm.rms) {
    const at::Tensor rstd = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + norm.epsilon);
    return (wide * rstd * weight).to(x.scalar_type());
  }
  const std::optional<at::Tensor> bias =
      norm.bias.defined() ? std::optional(norm.bias.to(wide.scalar_type())) : std::nullopt;
  return at::layer_norm(wide, {x.size(-1)}, weight, bias, norm.epsilon).to(x.scalar_type());
}

at::Tensor ComposedHeadNorms(const at::Tensor& x, int64_t first, const FrozenNorm& first_norm, int64_t second,
                             const FrozenNorm& second_norm) {
  const int64_t head_dim = first_norm.weight.size(0), middle = first * head_dim, end = middle + second * head_dim;
  const auto normed = [&](int64_t begin, int64_t columns, const FrozenNorm& norm) {
    const at::Tensor part = x.slice(1, begin, begin + columns);
    return ComposedNorm(part.reshape({x.size(0), columns / head_dim, head_dim}), norm).reshape({x.size(0), columns});
  };
  std::vector<at::Tensor> parts;
  if (first > 0) parts.push_back(normed(0, middle, first_norm));
  if (second > 0) parts.push_back(normed(middle, end - middle, second_norm));
  parts.push_back(x.slice(1, end));
  return at::cat(parts, 1);
}

at::Tensor ComposedActivation(const at::Tensor& x, Activation activation) {
  return Activated(Widened(x), activation).to(x.scalar_type());
}

at::Tensor ComposedGatedActivation(const at::Tensor& gate_up, Activation activation) {
  const int64_t width = gate_up.size(1) / 2;
  const at::Tensor wide = Widened(gate_up);
  return (Activated(wide.slice(1, 0, width), activation) * wide.slice(1, width)).to(gate_up.scalar_type());
}

}  // namespace weft
