#include "training/ops/activation.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "kernels/activation/activation.h"
#include "training/ops/composed.h"
#include "training/ops/elements.h"

namespace weft {
namespace {

using kernels::ActivationCurve;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

ActivationCurve CurveOf(Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return ActivationCurve::kIdentity;
    case Activation::kRelu:
      return ActivationCurve::kRelu;
    case Activation::kTanh:
      return ActivationCurve::kTanh;
    case Activation::kGelu:
      return ActivationCurve::kGelu;
    case Activation::kGeluTanh:
      return ActivationCurve::kGeluTanh;
    case Activation::kSilu:
      return ActivationCurve::kSilu;
  }
  return ActivationCurve::kIdentity;
}

// f(first element, elements) over all of them, in threads.
template <typename F>
void ForEachStretch(int64_t count, const F& f) {
  constexpr int64_t kBlock = 1024, kBlocksPerThread = 16;
  at::parallel_for(0, (count + kBlock - 1) / kBlock, kBlocksPerThread, [&](int64_t begin, int64_t end) {
    f(begin * kBlock, std::min(end * kBlock, count) - begin * kBlock);
  });
}

at::Tensor Forward(const at::Tensor& x, Activation activation) {
  const at::Tensor out = at::empty_like(x);
  WithElement(x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const T* from = ConstData<T>(x);
    T* to = MutableData<T>(out);
    ForEachStretch(x.numel(), [&](int64_t begin, int64_t count) {
      kernels::ActivationForward(CurveOf(activation), from + begin, to + begin, count);
    });
  });
  return out;
}

at::Tensor GatedForward(const at::Tensor& gate_up, Activation activation) {
  const int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
  const at::Tensor out = at::empty({rows, width}, gate_up.options());
  WithElement(gate_up.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const T* from = ConstData<T>(gate_up);
    T* to = MutableData<T>(out);
    at::parallel_for(0, rows, RowsPerThread(width), [&](int64_t begin, int64_t end) {
      kernels::GatedForward(CurveOf(activation), from, width, to, begin, end);
    });
  });
  return out;
}

// Both keep their input alone.
class CpuActivation : public torch::autograd::Function<CpuActivation> {
 public:
  static Variable forward(AutogradContext* context, const at::Tensor& x, int64_t activation) {
    context->save_for_backward({x});
    context->saved_data["activation"] = activation;
    return Forward(x, static_cast<Activation>(activation));
  }

  static variable_list backward(AutogradContext* context, const variable_list& out_gradients) {
    const at::Tensor x = context->get_saved_variables()[0], out_gradient = out_gradients[0].contiguous();
    const auto activation = static_cast<Activation>(context->saved_data["activation"].toInt());
    const at::Tensor gradient = at::empty_like(x);
    WithElement(x.scalar_type(), [&](auto element) {
      using T = decltype(element);
      const T *from = ConstData<T>(x), *of_out = ConstData<T>(out_gradient);
      T* to = MutableData<T>(gradient);
      ForEachStretch(x.numel(), [&](int64_t begin, int64_t count) {
        kernels::ActivationBackward(CurveOf(activation), from + begin, of_out + begin, to + begin, count);
      });
    });
    return {gradient, Variable()};
  }
};

class CpuGatedActivation : public torch::autograd::Function<CpuGatedActivation> {
 public:
  static Variable forward(AutogradContext* context, const at::Tensor& gate_up, int64_t activation) {
    context->save_for_backward({gate_up});
    context->saved_data["activation"] = activation;
    return GatedForward(gate_up, static_cast<Activation>(activation));
  }

  static variable_list backward(AutogradContext* context, const variable_list& out_gradients) {
    const at::Tensor gate_up = context->get_saved_variables()[0], out_gradient = out_gradients[0].contiguous();
    const auto activation = static_cast<Activation>(context->saved_data["activation"].toInt());
    const int64_t width = gate_up.size(1) / 2;
    const at::Tensor gradient = at::empty_like(gate_up);
    WithElement(gate_up.scalar_type(), [&](auto element) {
      using T = decltype(element);
      const T *from = ConstData<T>(gate_up), *of_out = ConstData<T>(out_gradient);
      T* to = MutableData<T>(gradient);
      at::parallel_for(0, gate_up.size(0), RowsPerThread(2 * width), [&](int64_t begin, int64_t end) {
        kernels::GatedBackward(CurveOf(activation), from, width, of_out, to, begin, end);
      });
    });
    return {gradient, Variable()};
  }
};

bool NeedsGradient(const at::Tensor& x) { return at::GradMode::is_enabled() && x.requires_grad(); }

}  // namespace

at::Tensor Activate(const at::Tensor& x, Activation activation) {
  if (activation == Activation::kNone) return x;
  if (!x.device().is_cpu()) return ComposedActivation(x, activation);
  const at::Tensor dense = x.contiguous();
  if (NeedsGradient(x)) return CpuActivation::apply(dense, static_cast<int64_t>(activation));
  return Forward(dense, activation);
}

at::Tensor ActivateGated(const at::Tensor& gate_up, Activation activation) {
  TORCH_CHECK(gate_up.dim() == 2 && gate_up.size(1) % 2 == 0, "found a tensor ", gate_up.sizes(),
              ", expected [n, 2 width]: gates and ups side by side");
  if (!gate_up.device().is_cpu()) return ComposedGatedActivation(gate_up, activation);
  const at::Tensor dense = gate_up.contiguous();
  if (NeedsGradient(gate_up)) return CpuGatedActivation::apply(dense, static_cast<int64_t>(activation));
  return GatedForward(dense, activation);
}

}  // namespace weft
