#include "server/broadcast/broadcast.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/factors.h"
#include "aggregators/core/state.h"
#include "common/hash.h"

namespace weft::server {
namespace {

std::vector<std::string> BroadcastRoles(const Layout& layout) {
  std::vector<std::string> roles;
  for (const TensorSpec& tensor : layout.tensors()) {
    if (!aggregators::IsBroadcast(tensor.role)) continue;
    if (std::find(roles.begin(), roles.end(), tensor.role) == roles.end()) roles.push_back(tensor.role);
  }
  return roles;
}

std::string HashOf(const Adapter& state, const std::string& role) {
  Sha256 sha;
  for (const TensorSpec& tensor : state.layout().tensors()) {
    if (tensor.role != role) continue;
    const std::string head = absl::StrCat(tensor.name, " ", absl::StrJoin(tensor.shape, "x"), "\n");
    sha.Update(head.data(), head.size());
    const std::span<const float> values = state.tensor(tensor);
    sha.Update(values.data(), values.size_bytes());
  }
  return sha.Finish();
}

}  // namespace

std::shared_ptr<const Adapter> TensorsOf(const Adapter& state, const std::vector<std::string>& roles) {
  const auto layout = SentLayout(state.layout(), roles, 0);
  return layout.ok() ? std::make_shared<const Adapter>(Cut(state, *layout)) : nullptr;
}

absl::StatusOr<std::shared_ptr<Broadcast>> Broadcast::Create(std::shared_ptr<const Adapter> state) {
  absl::StatusOr<std::shared_ptr<const Layout>> layout =
      SentLayout(state->layout(), BroadcastRoles(state->layout()), 0);
  if (!layout.ok()) return layout.status();
  return std::shared_ptr<Broadcast>(new Broadcast(std::move(state), *std::move(layout)));
}

Broadcast::Broadcast(std::shared_ptr<const Adapter> state, std::shared_ptr<const Layout> layout)
    : state_(std::move(state)), layout_(std::move(layout)), roles_(BroadcastRoles(*layout_)) {
  for (const std::string& role : roles_) hashes_[role] = HashOf(*state_, role);
}

std::vector<std::string> Broadcast::Lacking(const RoleHashes& held) const {
  std::vector<std::string> lacking;
  for (const std::string& role : roles_) {
    const auto found = held.find(role);
    if (found == held.end() || found->second != hashes_.at(role)) lacking.push_back(role);
  }
  if (lacking.size() == roles_.size()) return {};
  if (!lacking.empty()) return lacking;
  return {*std::min_element(roles_.begin(), roles_.end(), [this](const std::string& a, const std::string& b) {
    return SizeBytes({a}) < SizeBytes({b});
  })};
}

uint64_t Broadcast::SizeBytes(const std::vector<std::string>& roles) const {
  uint64_t bytes = 0;
  for (const TensorSpec& tensor : layout_->tensors()) {
    const bool counts = roles.empty() || std::find(roles.begin(), roles.end(), tensor.role) != roles.end();
    if (counts) bytes += static_cast<uint64_t>(tensor.size) * sizeof(float);
  }
  return bytes;
}

}  // namespace weft::server
