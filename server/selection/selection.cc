#include "server/selection/selection.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/random.h"

namespace weft::server {
namespace {

constexpr int kMaxPoissonDraws = 1000;

std::vector<std::string> DrawUniform(const proto::SelectionConfig& config, const SelectionSnapshot& snapshot,
                                     uint64_t seed) {
  std::vector<std::string> cohort = snapshot.ready;
  const double asked = std::ceil(static_cast<double>(config.clients()) * config.over_select());
  if (asked >= static_cast<double>(cohort.size())) return cohort;
  // The first steps of a Fisher-Yates shuffle.
  Philox random(seed, StreamId("selection.uniform"));
  const auto count = static_cast<size_t>(asked);
  for (size_t i = 0; i < count; ++i) {
    std::swap(cohort[i], cohort[i + random.NextBelow(cohort.size() - i)]);
  }
  cohort.resize(count);
  std::sort(cohort.begin(), cohort.end());
  return cohort;
}

std::vector<std::string> DrawPoisson(const proto::SelectionConfig& config, const SelectionSnapshot& snapshot,
                                     uint64_t seed) {
  for (int draw = 0; draw < kMaxPoissonDraws; ++draw) {
    const uint64_t draw_seed = MixSeed(seed, static_cast<uint64_t>(draw));
    std::vector<std::string> cohort;
    for (const std::string& client : snapshot.ready) {
      if (Philox(draw_seed, StreamId(client)).NextDouble() < config.rate()) cohort.push_back(client);
    }
    if (static_cast<int64_t>(cohort.size()) >= snapshot.min_updates) return cohort;
  }
  return {};
}

}  // namespace

std::vector<std::string> SelectCohort(const proto::SelectionConfig& config, const SelectionSnapshot& snapshot) {
  const uint64_t seed =
      MixSeed(MixSeed(snapshot.seed, static_cast<uint64_t>(snapshot.round)), static_cast<uint64_t>(snapshot.attempt));
  if (config.rule() == "uniform") return DrawUniform(config, snapshot, seed);
  if (config.rule() == "poisson") return DrawPoisson(config, snapshot, seed);
  return snapshot.ready;
}

int64_t CloseAt(const proto::SelectionConfig& config, int64_t cohort_size) {
  return config.rule() == "uniform" ? std::min(config.clients(), cohort_size) : cohort_size;
}

}  // namespace weft::server
