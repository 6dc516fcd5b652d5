#include "aggregators/core/state.h"

#include <algorithm>
#include <utility>

#include "common/status_macros.h"

namespace weft::aggregators {

bool IsBroadcast(std::string_view role) { return !role.starts_with(kServerPrefix); }

bool IsAdapterRole(std::string_view role) {
  return IsBroadcast(role) && !role.starts_with(kControlPrefix) && role != "base_a" && role != "base_b";
}

std::vector<std::string> AdapterRoles(const Layout& layout) {
  std::vector<std::string> roles;
  for (const TensorSpec& tensor : layout.tensors()) {
    if (!IsAdapterRole(tensor.role) || tensor.role.starts_with(kFixedPrefix)) continue;
    if (std::find(roles.begin(), roles.end(), tensor.role) == roles.end()) roles.push_back(tensor.role);
  }
  return roles;
}

bool HasRole(const Layout& layout, std::string_view role) {
  return std::any_of(layout.tensors().begin(), layout.tensors().end(),
                     [&](const TensorSpec& tensor) { return tensor.role == role; });
}

std::vector<TensorSpec> Companions(const Layout& layout, std::string_view prefix) {
  std::vector<TensorSpec> companions = layout.tensors();
  for (TensorSpec& tensor : companions) {
    tensor.name = std::string(prefix) + tensor.name;
    tensor.role = std::string(prefix) + tensor.role;
  }
  return companions;
}

absl::StatusOr<Adapter> Extend(const Adapter& state, const std::vector<TensorSpec>& extra) {
  std::vector<TensorSpec> tensors = state.layout().tensors();
  tensors.insert(tensors.end(), extra.begin(), extra.end());
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, Layout::Create(std::move(tensors)));
  Adapter extended(std::move(layout));
  std::copy(state.values().begin(), state.values().end(), extended.values().begin());
  return extended;
}

Adapter Plus(const Adapter& state, const Adapter& delta) {
  Adapter next = state.Clone();
  for (const TensorSpec& tensor : delta.layout().tensors()) {
    const std::span<float> values = next.tensor(*next.layout().Find(tensor.name));
    const std::span<const float> change = delta.tensor(tensor);
    for (size_t i = 0; i < values.size(); ++i) values[i] += change[i];
  }
  return next;
}

}  // namespace weft::aggregators
