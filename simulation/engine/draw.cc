#include "simulation/engine/draw.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

namespace weft::simulation {
namespace {

// So many tries for each client wanted, and some more; then everybody is looked at.
constexpr int64_t kTriesPerClient = 16;
constexpr int64_t kMoreTries = 64;

}  // namespace

std::vector<int64_t> AllOf(int64_t size, const Accepts& accepts) {
  std::vector<int64_t> all;
  for (int64_t client = 0; client < size; ++client) {
    if (accepts(client)) all.push_back(client);
  }
  return all;
}

std::vector<int64_t> DrawUniform(int64_t count, int64_t size, const Accepts& accepts, Philox& random) {
  if (count <= size / 2) {
    std::set<int64_t> drawn;
    int64_t tries = kTriesPerClient * count + kMoreTries;
    while (static_cast<int64_t>(drawn.size()) < count && tries-- > 0) {
      const auto client = static_cast<int64_t>(random.NextBelow(static_cast<uint64_t>(size)));
      if (!drawn.contains(client) && accepts(client)) drawn.insert(client);
    }
    if (static_cast<int64_t>(drawn.size()) == count) return {drawn.begin(), drawn.end()};
  }
  std::vector<int64_t> all = AllOf(size, accepts);
  if (count >= static_cast<int64_t>(all.size())) return all;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) std::swap(all[i], all[i + random.NextBelow(all.size() - i)]);
  all.resize(static_cast<size_t>(count));
  std::sort(all.begin(), all.end());
  return all;
}

std::vector<int64_t> DrawPoisson(double rate, int64_t size, const Accepts& accepts, Philox& random) {
  if (rate >= 1) return AllOf(size, accepts);
  std::vector<int64_t> drawn;
  const double per_client = std::log1p(-rate);
  for (double client = -1;;) {
    // The clients until the next one that is drawn are geometric.
    client += 1 + std::floor(std::log1p(-random.NextDouble()) / per_client);
    if (client >= static_cast<double>(size)) return drawn;
    if (accepts(static_cast<int64_t>(client))) drawn.push_back(static_cast<int64_t>(client));
  }
}

}  // namespace weft::simulation
