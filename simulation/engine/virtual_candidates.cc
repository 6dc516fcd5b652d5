#include "simulation/engine/virtual_candidates.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/random.h"
#include "simulation/engine/draw.h"

namespace weft::simulation {
namespace {

// As server/job/roster.h and server/selection/selection.h.
constexpr int32_t kMostStrikes = 4;
constexpr int kMostPoissonDraws = 1'000;

}  // namespace

void VirtualCandidates::Answered(const std::string& client) {
  const absl::StatusOr<int64_t> index = options_.population->Find(client);
  if (!index.ok()) return;
  const auto entry = entries_.find(*index);
  if (entry == entries_.end()) return;
  // What has failed in this round alone is nobody's standing.
  if (entry->second.strikes > 0) changed_[*index] = Entry();
  entries_.erase(entry);
}

void VirtualCandidates::Failed(const std::string& client, int64_t round) {
  const absl::StatusOr<int64_t> index = options_.population->Find(client);
  if (index.ok()) entries_[*index].failed_in = round;
}

void VirtualCandidates::Stalled(const std::string& client, int64_t round) {
  const absl::StatusOr<int64_t> index = options_.population->Find(client);
  if (!index.ok()) return;
  Entry& entry = entries_[*index];
  entry.strikes = std::min(entry.strikes + 1, kMostStrikes);
  entry.stalled_through = round + (int64_t{1} << (entry.strikes - 1)) - 1;
  changed_[*index] = entry;
}

bool VirtualCandidates::IsThere(int64_t client) const {
  return options_.behaviour->always_available() ||
         options_.behaviour->IsAvailable(client, *options_.now - options_.start);
}

int64_t VirtualCandidates::trainers() const {
  const int64_t size = options_.population->size();
  if (options_.behaviour->always_available()) return size;
  int64_t count = 0;
  for (int64_t client = 0; client < size; ++client) count += IsThere(client) ? 1 : 0;
  return count;
}

std::vector<std::string> VirtualCandidates::Draw(const proto::SelectionConfig& config,
                                                 server::SelectionSnapshot attempt, int64_t at_least) const {
  if (const auto* named = options_.behaviour->CohortOf(attempt.round); named != nullptr && attempt.attempt == 1) {
    return *named;
  }
  const auto is_bad = [&](const Entry& entry) {
    return entry.stalled_through >= attempt.round || entry.failed_in == attempt.round;
  };
  int64_t bad = 0;
  for (const auto& [client, entry] : entries_) bad += is_bad(entry) && IsThere(client) ? 1 : 0;
  const bool passes_over = bad > 0 && trainers() - bad >= at_least;
  const Accepts accepts = [&](int64_t client) {
    if (!IsThere(client)) return false;
    if (!passes_over) return true;
    const auto entry = entries_.find(client);
    return entry == entries_.end() || !is_bad(entry->second);
  };

  const uint64_t seed =
      MixSeed(MixSeed(attempt.seed, static_cast<uint64_t>(attempt.round)), static_cast<uint64_t>(attempt.attempt));
  const int64_t size = options_.population->size();
  std::vector<int64_t> drawn;
  if (config.rule() == "uniform") {
    Philox random(seed, StreamId("selection.uniform"));
    drawn = DrawUniform(std::llround(std::ceil(static_cast<double>(config.clients()) * config.over_select())), size,
                        accepts, random);
  } else if (config.rule() == "poisson") {
    for (int draw = 0; draw < kMostPoissonDraws; ++draw) {
      Philox random(MixSeed(seed, static_cast<uint64_t>(draw)), StreamId("selection.poisson"));
      drawn = DrawPoisson(config.rate(), size, accepts, random);
      if (static_cast<int64_t>(drawn.size()) >= attempt.min_updates) break;
      drawn.clear();
    }
  } else {
    drawn = AllOf(size, accepts);
  }
  std::vector<std::string> names;  // ascend, as the clients do
  for (const int64_t client : drawn) names.push_back(options_.population->Name(client));
  return names;
}

std::vector<proto::Standing> VirtualCandidates::TakeChanges() {
  std::vector<proto::Standing> standings;
  for (const auto& [client, entry] : std::exchange(changed_, {})) {
    proto::Standing& standing = standings.emplace_back();
    standing.set_client(static_cast<uint32_t>(client));
    standing.set_strikes(entry.strikes);
    standing.set_stalled_through(entry.stalled_through);
  }
  return standings;
}

void VirtualCandidates::Restore(const proto::Standing& standing) {
  if (standing.strikes() == 0) {
    entries_.erase(standing.client());
  } else {
    entries_[standing.client()] = {.strikes = standing.strikes(), .stalled_through = standing.stalled_through()};
  }
}

}  // namespace weft::simulation
