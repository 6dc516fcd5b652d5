#ifndef WEFT_SERVER_BROADCAST_BROADCAST_H_
#define WEFT_SERVER_BROADCAST_BROADCAST_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"

namespace weft::server {

// Identity of the tensors of each role: names, shapes and values.
using RoleHashes = std::map<std::string, std::string>;

// What clients download of one committed state: its broadcast roles, all or those that have changed for the receiver.
// Immutable.
class Broadcast {
 public:
  // INVALID_ARGUMENT: a state without broadcast roles.
  static absl::StatusOr<std::shared_ptr<Broadcast>> Create(std::shared_ptr<const Adapter> state);

  const std::shared_ptr<const Adapter>& state() const { return state_; }
  // Of all broadcast tensors.
  const std::shared_ptr<const Layout>& layout() const { return layout_; }
  // Of the broadcast roles.
  const RoleHashes& hashes() const { return hashes_; }
  // Broadcast roles, in layout order, that a receiver of `held` lacks; none: it lacks all. When it lacks nothing, the
  // smallest role: a download that names no role is a download of all.
  std::vector<std::string> Lacking(const RoleHashes& held) const;
  // Bytes of the tensors of these roles; none: of all.
  uint64_t SizeBytes(const std::vector<std::string>& roles) const;

 private:
  Broadcast(std::shared_ptr<const Adapter> state, std::shared_ptr<const Layout> layout);

  const std::shared_ptr<const Adapter> state_;
  const std::shared_ptr<const Layout> layout_;
  std::vector<std::string> roles_;  // in layout order
  RoleHashes hashes_;
};

// The tensors of `roles` of a state, with its own layout; null when it has none of them.
std::shared_ptr<const Adapter> TensorsOf(const Adapter& state, const std::vector<std::string>& roles);

}  // namespace weft::server

#endif  // WEFT_SERVER_BROADCAST_BROADCAST_H_
