#ifndef WEFT_SIMULATION_BEHAVIOUR_PARTS_H_
#define WEFT_SIMULATION_BEHAVIOUR_PARTS_H_

#include <cstdint>
#include <span>

namespace weft::simulation {

// A permutation of [0, size) that depends on the seed and needs no storage: a Feistel network over the next power of
// four that is walked until it comes out below `size` (Black and Rogaway, "Ciphers with arbitrary finite domains",
// 2002).
int64_t Permuted(int64_t index, int64_t size, uint64_t seed);

// The group that `client` of `clients` is in, -1 for none. Groups are disjoint; group g has round(parts[0..g] *
// clients) - round(parts[0..g-1] * clients) members, chosen by the seed.
int PartOf(int64_t client, int64_t clients, std::span<const double> parts, uint64_t seed);

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_BEHAVIOUR_PARTS_H_
