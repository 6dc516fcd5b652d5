#include "training/models/frozen_linear.h"

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <string_view>
#include <utility>

namespace weft {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// LibTorch gives its prepacked products to inductor only, by name; neither has a C++ function.
at::Tensor Pack(const at::Tensor& weight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                             .typed<at::Tensor(const at::Tensor&, std::optional<int64_t>)>();
  constexpr int64_t kTypicalRows = 512;  // a hint for the choice of order
  return op.call(weight, kTypicalRows);
}

at::Tensor PackedProduct(const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                            c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>)>();
  return op.call(x, packed, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

class FrozenProduct : public torch::autograd::Function<FrozenProduct> {
 public:
  static Variable forward(AutogradContext* context, const at::Tensor& x, const FrozenLinear* linear) {
    const at::AutoDispatchBelowAutograd plain;  // nothing below is recorded: skip what would look
    context->saved_data["linear"] = reinterpret_cast<int64_t>(linear);
    return linear->Product(x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::AutoDispatchBelowAutograd plain;
    const auto* linear = reinterpret_cast<const FrozenLinear*>(context->saved_data["linear"].toInt());
    return {linear->InputGradient(gradients[0]), Variable()};
  }
};

}  // namespace

FrozenLinear::FrozenLinear(std::string name, at::Tensor weight, at::Tensor bias)
    : name_(std::move(name)), weight_(std::move(weight)), bias_(std::move(bias)) {
  // Measured: at 256 x 256 a packed product costs what a general one does, at 96 x 96 two and a half times that.
  constexpr int64_t kSmallestPacked = int64_t{1} << 16;
  if (!weight_.device().is_cpu() || !at::globalContext().hasMKLDNN() || weight_.numel() < kSmallestPacked) return;
  packed_ = Pack(weight_);
  packed_transposed_ = Pack(weight_.t().contiguous());
}

at::Tensor FrozenLinear::Forward(const at::Tensor& x) const { return FrozenProduct::apply(x, this); }

at::Tensor FrozenLinear::Product(const at::Tensor& x) const {
  return packed_.defined() ? PackedProduct(x, packed_, bias_) : at::linear(x, weight_, bias_);
}

at::Tensor FrozenLinear::InputGradient(const at::Tensor& y_gradient) const {
  return packed_.defined() ? PackedProduct(y_gradient, packed_transposed_, std::nullopt) : at::mm(y_gradient, weight_);
}

}  // namespace weft
