#include "training/adapter_tensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

namespace weft {
namespace {

at::Tensor View(std::span<const float> values, const TensorSpec& spec) {
  return at::from_blob(const_cast<float*>(values.data()), spec.shape, at::TensorOptions(at::kFloat));  // read from only
}

}  // namespace

AdapterTensors::AdapterTensors(const Adapter& start, const std::set<std::string>& roles_trained, at::Device device)
    : layout_(start.layout_ptr()) {
  int64_t trained = 0;
  for (const TensorSpec& spec : layout_->tensors()) trained += roles_trained.contains(spec.role) ? spec.size : 0;
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(device);
  values_ = at::empty({trained}, options);
  gradients_ = at::zeros({trained}, options);
  int64_t offset = 0;
  for (const TensorSpec& spec : layout_->tensors()) {
    const at::Tensor initial = View(start.tensor(spec), spec);
    if (!roles_trained.contains(spec.role)) {
      tensors_[spec.name] = at::empty(spec.shape, options).copy_(initial);
      continue;
    }
    at::Tensor tensor = values_.slice(0, offset, offset + spec.size).view(spec.shape).copy_(initial).detach();
    tensor.requires_grad_(true);
    tensor.mutable_grad() = gradients_.slice(0, offset, offset + spec.size).view(spec.shape);
    tensors_[spec.name] = tensor;
    offset += spec.size;
  }
}

Adapter AdapterTensors::ToAdapter() const {
  Adapter result(layout_);
  for (const TensorSpec& spec : layout_->tensors())
    View(result.tensor(spec), spec).copy_(tensors_.at(spec.name).detach());
  return result;
}

}  // namespace weft
