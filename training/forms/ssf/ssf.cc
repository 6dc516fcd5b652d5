#include "training/forms/ssf/ssf.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "adapters/forms/form.h"
#include "common/status_macros.h"
#include "training/forms/member_tensors.h"

namespace weft {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

constexpr const char* kSuffixes[] = {".ssf_scale", ".ssf_shift"};

struct ScaleAndShift {
  std::vector<MemberTensor> scale, shift;  // [width] of each member
};

// By hand: so that it keeps y alone and adds gradients where they belong, instead of a graph for each member.
class SsfProduct : public torch::autograd::Function<SsfProduct> {
 public:
  // `anchor`: one of the leaves that are trained, so that it is recorded even if y needs no gradient.
  static Variable forward(AutogradContext* context, const at::Tensor& y, const std::optional<at::Tensor>& anchor,
                          const ScaleAndShift* adapter, const Segments& segments) {
    (void)anchor;
    const at::AutoDispatchBelowAutograd plain;  // nothing below is recorded: skip what would look
    at::Tensor out = at::empty(y.sizes(), y.options());
    for (int64_t k = 0; k < segments.members(); ++k) {
      const at::Tensor from = y.slice(0, segments.begin(k), segments.end(k)).to(at::kFloat);
      out.slice(0, segments.begin(k), segments.end(k))
          .copy_(at::addcmul(adapter->shift[k].value, from, adapter->scale[k].value));
    }
    out.slice(0, segments.offsets.back()).copy_(y.slice(0, segments.offsets.back()));
    context->save_for_backward({y});
    context->saved_data["adapter"] = reinterpret_cast<int64_t>(adapter);
    context->saved_data["offsets"] = segments.offsets;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::AutoDispatchBelowAutograd plain;
    const auto* adapter = reinterpret_cast<const ScaleAndShift*>(context->saved_data["adapter"].toInt());
    const Segments segments = {.offsets = context->saved_data["offsets"].toIntVector()};
    const at::Tensor y = context->get_saved_variables().front();
    at::Tensor y_gradient;
    if (context->needs_input_grad(0)) y_gradient = at::empty(y.sizes(), y.options());
    for (int64_t k = 0; k < segments.members(); ++k) {
      const int64_t begin = segments.begin(k), end = segments.end(k);
      const at::Tensor gradient = gradients[0].slice(0, begin, end).to(at::kFloat);
      if (at::Tensor scale = adapter->scale[k].gradient; scale.defined()) {
        scale.add_(gradient.mul(y.slice(0, begin, end)).sum(0));
      }
      if (at::Tensor shift = adapter->shift[k].gradient; shift.defined()) shift.add_(gradient.sum(0));
      if (y_gradient.defined()) y_gradient.slice(0, begin, end).copy_(gradient.mul(adapter->scale[k].value));
    }
    if (y_gradient.defined()) {
      y_gradient.slice(0, segments.offsets.back()).copy_(gradients[0].slice(0, segments.offsets.back()));
    }
    return {y_gradient, Variable(), Variable(), Variable()};
  }
};

class SsfOutput : public OutputAdapter {
 public:
  explicit SsfOutput(ScaleAndShift adapter) : adapter_(std::move(adapter)) {
    for (const std::vector<MemberTensor>* members : {&adapter_.scale, &adapter_.shift}) {
      for (const MemberTensor& member : *members) {
        if (member.gradient.defined() && !anchor_) anchor_ = member.value;
      }
    }
  }

  at::Tensor Forward(const at::Tensor& y, const Segments& segments) const override {
    return SsfProduct::apply(y, anchor_, &adapter_, segments);
  }

 private:
  const ScaleAndShift adapter_;
  std::optional<at::Tensor> anchor_;
};

class TorchSsf : public TorchForm {
 public:
  absl::StatusOr<AttachedForm> Attach(const BaseDescription& base,
                                      std::span<const MemberTensors> members) const override {
    AttachedForm attached(base);
    std::set<std::string> modules;
    const auto attach = [&](const std::string& module, int64_t width,
                            std::unique_ptr<OutputAdapter>& to) -> absl::Status {
      modules.insert(module);
      ScaleAndShift adapter = {.scale = Collect(members, module + kSuffixes[0]),
                               .shift = Collect(members, module + kSuffixes[1])};
      if (adapter.scale.size() < members.size() || adapter.shift.size() < members.size()) return absl::OkStatus();
      WEFT_RETURN_IF_ERROR(CheckShapes(module + kSuffixes[0], adapter.scale, {&width, 1}));
      WEFT_RETURN_IF_ERROR(CheckShapes(module + kSuffixes[1], adapter.shift, {&width, 1}));
      to = std::make_unique<SsfOutput>(std::move(adapter));
      return absl::OkStatus();
    };
    for (size_t i = 0; i < base.linears.size(); ++i) {
      WEFT_RETURN_IF_ERROR(attach(base.linears[i].name, base.linears[i].out_features, attached.linear_outputs[i]));
    }
    for (size_t i = 0; i < base.norms.size(); ++i) {
      WEFT_RETURN_IF_ERROR(attach(base.norms[i].name, base.norms[i].width, attached.norm_outputs[i]));
    }
    if (base.transformer && base.transformer->patches) {
      WEFT_RETURN_IF_ERROR(
          attach(base.transformer->patches->projection, base.transformer->hidden, attached.patch_output));
    }
    // Last, as it takes what the base has; what lacks a partner was not attached.
    WEFT_RETURN_IF_ERROR(CheckModules(members, kSuffixes, modules, "linear, norm or patch projection"));
    return attached;
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchSsf(const proto::AdapterConfig& config) {
  WEFT_RETURN_IF_ERROR(CreateForm(config).status());
  return std::make_unique<TorchSsf>();
}

}  // namespace weft
