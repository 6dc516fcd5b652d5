#include "training/models/checkpoint.h"

#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <utility>

namespace weft {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;
using Function = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

// The function travels as a pointer in saved_data, owned by a capsule that lives as long as the node.
struct Recomputed : torch::CustomClassHolder {
  Function f;
};

class Recompute : public torch::autograd::Function<Recompute> {
 public:
  static variable_list forward(AutogradContext* context, variable_list inputs, const at::Tensor& anchor,
                               const c10::intrusive_ptr<Recomputed>& holder) {
    (void)anchor;
    context->save_for_backward(inputs);
    context->saved_data["f"] = c10::IValue::make_capsule(holder);
    const at::AutoGradMode off(false);
    return holder->f(inputs);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto holder = c10::static_intrusive_pointer_cast<Recomputed>(context->saved_data["f"].toCapsule());
    variable_list inputs, result;
    for (const at::Tensor& saved : context->get_saved_variables()) {
      inputs.push_back(saved.detach().requires_grad_(saved.requires_grad()));
    }
    const at::AutoGradMode on(true);
    const variable_list outputs = holder->f(inputs);
    variable_list wanted, wanted_gradients;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!gradients[i].defined() || !outputs[i].requires_grad()) continue;
      wanted.push_back(outputs[i]);
      wanted_gradients.push_back(gradients[i]);
    }
    torch::autograd::backward(wanted, wanted_gradients);
    for (const at::Tensor& input : inputs) result.push_back(input.grad());
    result.emplace_back();
    result.emplace_back();
    return result;
  }
};

}  // namespace

std::vector<at::Tensor> Checkpoint(Function f, const std::vector<at::Tensor>& inputs) {
  if (!at::GradMode::is_enabled()) return f(inputs);
  auto holder = c10::make_intrusive<Recomputed>();
  holder->f = std::move(f);
  // What f reads may have something to learn though no input does.
  const at::Tensor anchor = at::zeros({}, at::TensorOptions(at::kFloat)).requires_grad_(true);
  return Recompute::apply(inputs, anchor, holder);
}

}  // namespace weft
