#include "simulation/engine/downloads.h"

namespace weft::simulation {

std::vector<std::string> Downloads::Publish(const server::Broadcast& broadcast, int64_t round) {
  std::vector<std::string> changed;
  for (const auto& [role, hash] : broadcast.hashes()) {
    const auto before = hashes_.find(role);
    if (before == hashes_.end() || before->second != hash) changed.push_back(role);
  }
  uint64_t base_bytes = 0;
  for (const TensorSpec& tensor : broadcast.layout()->tensors()) {
    if (tensor.role == "base_a" || tensor.role == "base_b") base_bytes += sizeof(float) * tensor.size;
  }
  Replay(round, changed, base_bytes);
  hashes_ = broadcast.hashes();
  return changed;
}

void Downloads::Replay(int64_t round, const std::vector<std::string>& changed_roles, uint64_t base_step_bytes) {
  for (const std::string& role : changed_roles) changed_in_[role] = round;
  if (round > 0) base_bytes_.push_back(base_bytes_.back() + base_step_bytes);
  round_ = round;
}

uint64_t Downloads::BytesFor(int64_t client, const server::Broadcast& broadcast) const {
  const int64_t held = held_[static_cast<size_t>(client)];
  server::RoleHashes known;
  for (const auto& [role, hash] : broadcast.hashes()) {
    const auto changed = changed_in_.find(role);
    if (held != kNothing && changed != changed_in_.end() && changed->second <= held) known[role] = hash;
  }
  const std::vector<std::string> lacking = held == kNothing ? std::vector<std::string>() : broadcast.Lacking(known);
  // Steps of the base that it has missed, before the one that comes with the state.
  const auto first = static_cast<size_t>(held == kNothing ? 0 : held);
  const uint64_t missed =
      round_ > held + 1 && round_ > 0 ? base_bytes_[static_cast<size_t>(round_ - 1)] - base_bytes_[first] : 0;
  return broadcast.SizeBytes(lacking) + missed;
}

}  // namespace weft::simulation
