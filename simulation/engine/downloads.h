#ifndef WEFT_SIMULATION_ENGINE_DOWNLOADS_H_
#define WEFT_SIMULATION_ENGINE_DOWNLOADS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "server/broadcast/broadcast.h"

namespace weft::simulation {

// What clients have to download, each of which lacks what has changed since it last did: the coordinator's rule
// (server/broadcast), from four bytes a client.
class Downloads {
 public:
  explicit Downloads(int64_t clients) : held_(static_cast<size_t>(clients), kNothing) {}

  // Clients download this from now on: the state committed by `round`, 0 at first. Returns the roles that have changed.
  std::vector<std::string> Publish(const server::Broadcast& broadcast, int64_t round);
  // The same on going on with a run, where what changed is known from before.
  // Replay every round from 1 on, then Know what is published.
  void Replay(int64_t round, const std::vector<std::string>& changed_roles, uint64_t base_step_bytes);

  void Know(const server::Broadcast& broadcast) { hashes_ = broadcast.hashes(); }

  // Bytes that the client gets now.
  uint64_t BytesFor(int64_t client, const server::Broadcast& broadcast) const;
  // The client has downloaded what is published.
  void Done(int64_t client) { held_[static_cast<size_t>(client)] = static_cast<int32_t>(round_); }

 private:
  static constexpr int32_t kNothing = -1;

  std::vector<int32_t> held_;  // the round of each client's last download
  int64_t round_ = 0;
  server::RoleHashes hashes_;                  // as published
  std::map<std::string, int64_t> changed_in_;  // by role
  std::vector<uint64_t> base_bytes_ = {0};     // of the base steps up to and including each round, together
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_ENGINE_DOWNLOADS_H_
