#include "training/models/pass.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace weft {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

class LinearProduct : public torch::autograd::Function<LinearProduct> {
 public:
  static Variable forward(AutogradContext* context, const at::Tensor& x_in, const at::Tensor& anchor,
                          const Pass::Call* call) {
    (void)anchor;
    const at::AutoDispatchBelowAutograd plain;  // nothing below is recorded: skip what would look
    const at::Tensor x = x_in.contiguous();
    at::Tensor y = call->linear->Product(x);
    variable_list saved;
    std::vector<int64_t> counts;
    for (size_t i = 0; i < call->adapters.size(); ++i) {
      Kept kept;
      if (call->adapters[i] != nullptr) {
        const FrozenLinear::Part& part = call->linear->parts()[i];
        at::Tensor own = y.slice(1, part.begin, part.end());
        call->adapters[i]->Forward(x, call->segments, call->random, own, &kept);
      }
      counts.push_back(static_cast<int64_t>(kept.size()));
      saved.insert(saved.end(), kept.begin(), kept.end());
    }
    if (HasAdapter(*call)) saved.push_back(x);
    context->save_for_backward(saved);
    context->saved_data["counts"] = counts;
    context->saved_data["call"] = reinterpret_cast<int64_t>(call);
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::AutoDispatchBelowAutograd plain;
    const auto* call = reinterpret_cast<const Pass::Call*>(context->saved_data["call"].toInt());
    const at::Tensor y_gradient = gradients[0].contiguous();
    at::Tensor x_gradient;
    if (context->needs_input_grad(0)) x_gradient = call->linear->InputGradient(y_gradient);
    if (HasAdapter(*call)) {
      const variable_list saved = context->get_saved_variables();
      const std::vector<int64_t> counts = context->saved_data["counts"].toIntVector();
      auto next = saved.begin();
      for (size_t i = 0; i < call->adapters.size(); ++i) {
        const Kept kept(next, next + counts[i]);
        next += counts[i];
        if (call->adapters[i] == nullptr) continue;
        const FrozenLinear::Part& part = call->linear->parts()[i];
        call->adapters[i]->Backward(saved.back(), call->segments, call->random,
                                    y_gradient.slice(1, part.begin, part.end()), kept, x_gradient);
      }
    }
    return {x_gradient, Variable(), Variable()};
  }

 private:
  static bool HasAdapter(const Pass::Call& call) {
    for (const LinearAdapter* adapter : call.adapters) {
      if (adapter != nullptr) return true;
    }
    return false;
  }
};

}  // namespace

Pass::Pass(const Options& options) : options_(options) {
  anchor_ = at::zeros({}, at::TensorOptions(at::kFloat));
  if (!c10::InferenceMode::is_enabled()) anchor_.requires_grad_(true);
}

at::Tensor Pass::Linear(const FrozenLinear& linear, const at::Tensor& x, const Segments& segments) {
  const AttachedForm& form = *options_.form;
  calls_.push_back({.linear = &linear, .adapters = {}, .segments = segments, .random = options_.random});
  Call& call = calls_.back();
  bool adapted = false, outputs = false;
  for (const FrozenLinear::Part& part : linear.parts()) {
    call.adapters.push_back(form.linears[part.module].get());
    adapted |= call.adapters.back() != nullptr;
    outputs |= form.linear_outputs[part.module] != nullptr;
  }
  // Without an adapter the anchor would have a graph recorded that nobody wants.
  const at::Tensor y = LinearProduct::apply(x, adapted ? anchor_ : anchor_.detach(), &call);
  if (!outputs) return y;
  std::vector<at::Tensor> parts;
  for (const FrozenLinear::Part& part : linear.parts()) {
    const at::Tensor own = y.slice(1, part.begin, part.end());
    const OutputAdapter* output = form.linear_outputs[part.module].get();
    parts.push_back(output == nullptr ? own : output->Forward(own, segments));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts, 1);
}

at::Tensor Pass::NormOutput(int norm, const at::Tensor& y, const Segments& segments) const {
  const OutputAdapter* output = options_.form->norm_outputs[norm].get();
  return output == nullptr ? y : output->Forward(y, segments);
}

}  // namespace weft
