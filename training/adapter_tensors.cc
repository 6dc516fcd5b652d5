#include "training/adapter_tensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <optional>

#include "adapters/factors.h"

namespace weft {
namespace {

at::Tensor View(std::span<const float> values, const TensorSpec& spec) {
  return at::from_blob(const_cast<float*>(values.data()), spec.shape, at::TensorOptions(at::kFloat));  // read from only
}

}  // namespace

AdapterTensors::AdapterTensors(const Adapter& start, const std::set<std::string>& roles_trained, int64_t rank,
                               at::Device device)
    : layout_(start.layout_ptr()), rank_(rank) {
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(device);
  int64_t trained = 0;
  for (const std::string& role : roles_trained) {
    const int64_t begin = trained;
    for (const TensorSpec& spec : layout_->tensors()) {
      if (spec.role != role) continue;
      trained_.push_back(&spec);
      trained += Cut(spec, View(start.tensor(spec), spec)).numel();
    }
    stretches_.push_back({role, begin, trained});
  }
  values_ = at::empty({trained}, options);
  gradients_ = at::zeros({trained}, options);
  int64_t offset = 0;
  for (const TensorSpec* spec : trained_) {
    const at::Tensor initial = Cut(*spec, View(start.tensor(*spec), *spec));
    const int64_t end = offset + initial.numel();
    at::Tensor tensor = values_.slice(0, offset, end).view(initial.sizes()).copy_(initial).detach();
    tensor.requires_grad_(true);
    tensor.mutable_grad() = gradients_.slice(0, offset, end).view(initial.sizes());
    tensors_[spec->name] = tensor;
    offset = end;
  }
  for (const TensorSpec& spec : layout_->tensors()) {
    if (roles_trained.contains(spec.role)) continue;
    const at::Tensor initial = Cut(spec, View(start.tensor(spec), spec));
    tensors_[spec.name] = at::empty(initial.sizes(), options).copy_(initial);
  }
}

at::Tensor AdapterTensors::Cut(const TensorSpec& spec, const at::Tensor& tensor) const {
  const std::optional<int> axis = RankAxis(spec.role);
  return rank_ == 0 || !axis ? tensor : tensor.narrow(*axis, 0, rank_);
}

at::Tensor AdapterTensors::Flatten(const Adapter& other) const {
  const at::Tensor flat = at::zeros_like(values_);
  int64_t offset = 0;
  for (const TensorSpec* spec : trained_) {
    const at::Tensor& mine = tensors_.at(spec->name);
    const int64_t end = offset + mine.numel();
    if (const TensorSpec* found = other.layout().Find(spec->name); found != nullptr) {
      flat.slice(0, offset, end).view(mine.sizes()).copy_(Cut(*spec, View(other.tensor(*found), *found)));
    }
    offset = end;
  }
  return flat;
}

Adapter AdapterTensors::ToAdapter() const {
  Adapter result(layout_);  // zeros
  for (const TensorSpec& spec : layout_->tensors())
    Cut(spec, View(result.tensor(spec), spec)).copy_(tensors_.at(spec.name).detach());
  return result;
}

}  // namespace weft
