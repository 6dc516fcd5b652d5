#include "training/cohort_tensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <optional>

#include "adapters/factors.h"

namespace weft {
namespace {

at::Tensor View(std::span<const float> values, const TensorSpec& spec) {
  return at::from_blob(const_cast<float*>(values.data()), spec.shape, at::TensorOptions(at::kFloat));  // read from only
}

// The part of `tensor`, of the layout's shape, that takes part under a rank.
at::Tensor Cut(const TensorSpec& spec, int64_t rank, const at::Tensor& tensor) {
  const std::optional<int> axis = RankAxis(spec.role);
  return rank == 0 || !axis || tensor.size(*axis) <= rank ? tensor : tensor.narrow(*axis, 0, rank);
}

}  // namespace

CohortTensors::CohortTensors(std::span<const CohortMember> members, const std::set<std::string>& roles_trained,
                             const std::map<std::string, double>& learning_rate_scales, at::Device device)
    : layout_(members.front().start->layout_ptr()), device_(device), members_(members.size()) {
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(device);
  for (const CohortMember& member : members) ranks_.push_back(member.rank);
  std::map<double, std::vector<const TensorSpec*>> by_scale;
  for (const TensorSpec& spec : layout_->tensors()) {
    if (!roles_trained.contains(spec.role)) continue;
    const auto scale = learning_rate_scales.find(spec.role);
    by_scale[scale == learning_rate_scales.end() ? 1 : scale->second].push_back(&spec);
  }
  for (const auto& [scale, specs] : by_scale) {
    Part part{.learning_rate_scale = scale, .values = {}, .gradients = {}};
    for (const CohortMember& member : members) {
      int64_t count = 0;
      for (const TensorSpec* spec : specs)
        count += Cut(*spec, member.rank, View(member.start->tensor(*spec), *spec)).numel();
      part.offsets.push_back(part.offsets.back() + count);
    }
    part.values = at::empty({part.offsets.back()}, options);
    part.gradients = at::zeros({part.offsets.back()}, options);
    int64_t offset = 0;
    for (size_t k = 0; k < members.size(); ++k) {
      for (const TensorSpec* spec : specs) {
        const at::Tensor initial = Cut(*spec, ranks_[k], View(members[k].start->tensor(*spec), *spec));
        const int64_t end = offset + initial.numel();
        at::Tensor value = part.values.slice(0, offset, end).view(initial.sizes()).copy_(initial).detach();
        value.requires_grad_(true);
        value.mutable_grad() = part.gradients.slice(0, offset, end).view(initial.sizes());
        members_[k][spec->name] = {.value = value, .gradient = value.grad()};
        offset = end;
      }
    }
    parts_.push_back(std::move(part));
  }
  for (size_t k = 0; k < members.size(); ++k) {
    for (const TensorSpec& spec : layout_->tensors()) {
      if (roles_trained.contains(spec.role)) continue;
      const at::Tensor initial = Cut(spec, ranks_[k], View(members[k].start->tensor(spec), spec));
      members_[k][spec.name] = {.value = at::empty(initial.sizes(), options).copy_(initial), .gradient = {}};
    }
  }
}

std::map<std::string, at::Tensor> CohortTensors::TrainedOf(int64_t member, const Adapter& other) const {
  std::map<std::string, at::Tensor> result;
  for (const auto& [name, tensor] : members_[member]) {
    if (!tensor.gradient.defined()) continue;
    at::Tensor& value = result[name];
    if (const TensorSpec* spec = other.layout().Find(name); spec != nullptr) {
      value = Cut(*spec, ranks_[member], View(other.tensor(*spec), *spec)).to(device_).clone();
    }
  }
  return result;
}

Adapter CohortTensors::ToAdapter(int64_t member) const {
  Adapter result(layout_);  // zeros
  for (const TensorSpec& spec : layout_->tensors()) {
    Cut(spec, ranks_[member], View(result.tensor(spec), spec)).copy_(members_[member].at(spec.name).value.detach());
  }
  return result;
}

}  // namespace weft
