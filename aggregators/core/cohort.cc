#include "aggregators/core/cohort.h"

#include <algorithm>
#include <optional>

#include "adapters/factors.h"
#include "aggregators/core/state.h"
#include "common/parallel.h"

namespace weft::aggregators {

std::vector<Adapter> DecodeAll(std::span<const KeptUpdate* const> updates, int threads) {
  std::vector<std::optional<Adapter>> decoded(updates.size());
  ParallelFor(threads, static_cast<int64_t>(updates.size()), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) decoded[k] = updates[k]->tensors.Decode();
  });
  std::vector<Adapter> deltas;
  deltas.reserve(updates.size());
  for (std::optional<Adapter>& delta : decoded) deltas.push_back(*std::move(delta));
  return deltas;
}

std::vector<double> Shares(std::span<const KeptUpdate* const> updates) {
  uint64_t total = 0;  // of integers: exact
  for (const KeptUpdate* update : updates) total += update->weight;
  std::vector<double> shares;
  for (const KeptUpdate* update : updates) {
    shares.push_back(static_cast<double>(update->weight) / static_cast<double>(total));
  }
  return shares;
}

Adapter WeightedMean(std::span<const Adapter> deltas, std::span<const double> shares, int threads) {
  Adapter mean(deltas[0].layout_ptr());
  const std::span<float> out = mean.values();
  ParallelFor(threads, static_cast<int64_t>(out.size()), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double sum = 0;
      for (size_t k = 0; k < deltas.size(); ++k) sum += shares[k] * deltas[k].values()[i];
      out[i] = static_cast<float>(sum);
    }
  });
  return mean;
}

void AddMeanOfOthers(std::span<const Adapter> deltas, std::span<const double> shares, Adapter* next) {
  for (const TensorSpec& spec : next->layout().tensors()) {
    if (RankAxis(spec.role).has_value() || deltas[0].layout().Find(spec.name) == nullptr) continue;
    std::vector<double> mean(spec.size, 0.0);
    for (size_t k = 0; k < deltas.size(); ++k) {
      const std::span<const float> delta = deltas[k].tensor(*deltas[k].layout().Find(spec.name));
      for (int64_t i = 0; i < spec.size; ++i) mean[i] += shares[k] * delta[i];
    }
    const std::span<float> values = next->tensor(spec);
    for (int64_t i = 0; i < spec.size; ++i) values[i] += static_cast<float>(mean[i]);
  }
}

int64_t KeptBytes(const proto::JobConfig& job, const Layout& state, int64_t updates) {
  const std::string& name = job.encoding().values();
  const auto encoding = ParseEncoding(name.empty() ? "f32" : name);
  const double density = job.encoding().has_density() ? job.encoding().density() : 1;
  return updates * static_cast<int64_t>(EncodedUpdate::SizeBytes(state, encoding.value_or(Encoding::kF32), density));
}

int64_t DecodedBytes(const Layout& state, int64_t updates) { return updates * state.size_bytes(); }

}  // namespace weft::aggregators
