#include "simulation/behaviour/parts.h"

#include <cmath>

#include "common/random.h"

namespace weft::simulation {
namespace {

constexpr uint64_t kRounds = 12;  // many, since the halves are small where the population is

}  // namespace

int64_t Permuted(int64_t index, int64_t size, uint64_t seed) {
  int half = 1;  // bits
  while (half < 31 && int64_t{1} << (2 * half) < size) ++half;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  auto value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> half, right = value & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
      const uint64_t mixed = left ^ (MixSeed(MixSeed(seed, round), right) & mask);
      left = right;
      right = mixed;
    }
    value = left << half | right;
  } while (value >= static_cast<uint64_t>(size));
  return static_cast<int64_t>(value);
}

int PartOf(int64_t client, int64_t clients, std::span<const double> parts, uint64_t seed) {
  if (parts.empty()) return -1;
  const int64_t place = Permuted(client, clients, seed);
  double sum = 0;
  for (size_t group = 0; group < parts.size(); ++group) {
    sum += parts[group];
    if (place < std::llround(sum * static_cast<double>(clients))) return static_cast<int>(group);
  }
  return -1;
}

}  // namespace weft::simulation
