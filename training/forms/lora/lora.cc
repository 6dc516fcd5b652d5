#include "training/forms/lora/lora.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "adapters/forms/lora/lora.pb.h"
#include "common/status_macros.h"
#include "proto/schema.h"

namespace weft {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

constexpr char kSuffixA[] = ".lora_A.weight";
constexpr char kSuffixB[] = ".lora_B.weight";

// x [n, in], a [r, in], b [out, r], mask [n, in] (dropout, already scaled) or none -> [n, out]. By hand rather than by
// composition so that the thin products add into the wide ones, and each gradient of a thin matrix reads its wide
// operand along rows.
class LoraProduct : public torch::autograd::Function<LoraProduct> {
 public:
  static Variable forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& a, const at::Tensor& b,
                          const FrozenLinear* linear, const std::optional<at::Tensor>& mask, double scale) {
    const at::AutoDispatchBelowAutograd plain;                   // nothing below is recorded: skip what would look
    const at::Tensor low = at::mm(mask ? x * *mask : x, a.t());  // [n, r]
    at::Tensor y = linear->Product(x);
    y.addmm_(low, b.t(), /*beta=*/1, /*alpha=*/scale);
    context->save_for_backward({x, a, b, mask.value_or(at::Tensor()), low});
    context->saved_data["linear"] = reinterpret_cast<int64_t>(linear);
    context->saved_data["scale"] = scale;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::AutoDispatchBelowAutograd plain;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &a = saved[1], &b = saved[2], &mask = saved[3], &low = saved[4];
    const auto* linear = reinterpret_cast<const FrozenLinear*>(context->saved_data["linear"].toInt());
    const double scale = context->saved_data["scale"].toDouble();
    const at::Tensor y_gradient = gradients[0].contiguous();
    const at::Tensor low_gradient = at::mm(y_gradient, b).mul_(scale);  // [n, r]
    at::Tensor x_gradient, a_gradient, b_gradient;
    if (context->needs_input_grad(0)) {
      x_gradient = linear->InputGradient(y_gradient);
      if (mask.defined()) {
        x_gradient.addcmul_(at::mm(low_gradient, a), mask);
      } else {
        x_gradient.addmm_(low_gradient, a);
      }
    }
    if (context->needs_input_grad(1)) a_gradient = at::mm(low_gradient.t(), mask.defined() ? x * mask : x);
    if (context->needs_input_grad(2)) b_gradient = at::mm(low.t(), y_gradient).mul_(scale).t();
    return {x_gradient, a_gradient, b_gradient, Variable(), Variable(), Variable()};
  }
};

class LoraAdapter : public LinearAdapter {
 public:
  LoraAdapter(at::Tensor a, at::Tensor b, double scale, double dropout)
      : a_(std::move(a)), b_(std::move(b)), scale_(scale), dropout_(dropout) {}

  at::Tensor Forward(const FrozenLinear& linear, const at::Tensor& x, DropoutSource& dropout) const override {
    std::optional<at::Tensor> mask;
    if (dropout_ > 0 && dropout.has_value()) {
      mask = at::empty_like(x, x.options().device(at::kCPU))
                 .bernoulli_(1 - dropout_, *dropout)
                 .div_(1 - dropout_)
                 .to(x.device());
    }
    return LoraProduct::apply(x, a_, b_, &linear, mask, scale_);
  }

 private:
  const at::Tensor a_;  // [r, in]
  const at::Tensor b_;  // [out, r]
  const double scale_;
  const double dropout_;
};

absl::Status CheckShape(const std::string& name, const at::Tensor& tensor, int64_t rows, int64_t columns) {
  if (tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == columns) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("adapter tensor ", name, " has shape [",
                                                 absl::StrJoin(tensor.sizes(), ", "), "], the base asks for [", rows,
                                                 ", ", columns, "]"));
}

class TorchLora : public TorchForm {
 public:
  explicit TorchLora(proto::LoraConfig config) : config_(std::move(config)) {}

  absl::StatusOr<AttachedForm> Attach(const std::vector<FrozenLinear>& linears,
                                      const NamedTensors& tensors) const override {
    AttachedForm attached(linears.size());
    size_t used = 0;
    for (size_t i = 0; i < linears.size(); ++i) {
      const auto a = tensors.find(linears[i].name() + kSuffixA), b = tensors.find(linears[i].name() + kSuffixB);
      if (a == tensors.end() || b == tensors.end()) continue;
      // A client of a smaller rank brings factors that are cut; the scale stays the job's.
      const int64_t components = a->second.dim() == 2 ? a->second.size(0) : 0;
      const int64_t rank = components < 1 || components > config_.rank() ? config_.rank() : components;
      WEFT_RETURN_IF_ERROR(CheckShape(a->first, a->second, rank, linears[i].in_features()));
      WEFT_RETURN_IF_ERROR(CheckShape(b->first, b->second, linears[i].out_features(), rank));
      attached[i] = std::make_unique<LoraAdapter>(
          a->second, b->second, config_.alpha() / static_cast<double>(config_.rank()), config_.dropout());
      used += 2;
    }
    return used == CountOwn(tensors) ? absl::StatusOr<AttachedForm>(std::move(attached)) : Unmatched(linears, tensors);
  }

 private:
  static bool IsOwn(const std::string& name) { return name.ends_with(kSuffixA) || name.ends_with(kSuffixB); }

  static size_t CountOwn(const NamedTensors& tensors) {
    size_t count = 0;
    for (const auto& [name, tensor] : tensors) count += IsOwn(name);
    return count;
  }

  static absl::Status Unmatched(const std::vector<FrozenLinear>& linears, const NamedTensors& tensors) {
    for (const auto& [name, tensor] : tensors) {
      if (!IsOwn(name)) continue;
      const std::string module = name.substr(0, name.size() - (sizeof(kSuffixA) - 1));
      bool known = false;
      for (const FrozenLinear& linear : linears) known |= linear.name() == module;
      if (!known) {
        return absl::InvalidArgumentError(
            absl::StrCat("adapter tensor ", name, ": the base has no linear module ", module));
      }
      if (!tensors.contains(module + kSuffixA) || !tensors.contains(module + kSuffixB)) {
        return absl::InvalidArgumentError(
            absl::StrCat("adapter tensor ", name, " comes without its partner of module ", module));
      }
    }
    return absl::InternalError("every lora tensor has a module and a partner, yet some were not attached");
  }

  const proto::LoraConfig config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchLora(const google::protobuf::Struct& config) {
  proto::LoraConfig lora;
  WEFT_RETURN_IF_ERROR(proto::FromStruct(config, "adapter.config", &lora));
  return std::make_unique<TorchLora>(std::move(lora));
}

}  // namespace weft
