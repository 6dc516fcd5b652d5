// The rule "geometric_median": Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning" (RFA), arXiv
// 1912.13445, Algorithm 2: the smoothed Weiszfeld iteration
//   z <- sum_k w_k delta_k / sum_k w_k,   w_k = 1 / max(smoothing, |z - delta_k|),
// from the mean on, with all clients alike and distances over the whole delta. The centre is a weighted mean of whole
// deltas, so the factors of a LoRA client stay together. The rule inside makes the next state of it.

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "aggregators/core/registry.h"
#include "aggregators/core/robust.h"
#include "aggregators/geometric_median/geometric_median.pb.h"
#include "common/parallel.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "geometric_median";

class GeometricMedian : public RobustAggregator {
 public:
  GeometricMedian(const CreateOptions& create, RobustParts parts, proto::GeometricMedianConfig config)
      : RobustAggregator(create, std::move(parts)), config_(std::move(config)) {}

 private:
  absl::StatusOr<Adapter> Centre(std::span<const Adapter> deltas) override {
    Adapter centre(deltas[0].layout_ptr());
    std::vector<double> z(centre.values().size());
    Step(deltas, std::vector<double>(deltas.size(), 1.0), &z);
    for (int64_t i = 0; i < config_.iterations(); ++i) {
      const std::vector<double> distances = Distances(deltas, z);
      // The median of the distances is a scale that no minority sets.
      std::vector<double> sorted = distances;
      std::sort(sorted.begin(), sorted.end());
      const double scale = std::max(sorted[(sorted.size() - 1) / 2], config_.smoothing());
      if (Step(deltas, distances, &z) <= config_.tolerance() * scale) break;
    }
    std::transform(z.begin(), z.end(), centre.values().begin(), [](double x) { return static_cast<float>(x); });
    return centre;
  }

  // Each distance is one sum in element order, on one thread.
  std::vector<double> Distances(std::span<const Adapter> deltas, const std::vector<double>& z) const {
    std::vector<double> distances(deltas.size());
    ParallelFor(threads(), static_cast<int64_t>(deltas.size()), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const std::span<const float> delta = deltas[k].values();
        double sum = 0;
        for (size_t i = 0; i < z.size(); ++i) sum += (z[i] - delta[i]) * (z[i] - delta[i]);
        distances[k] = std::sqrt(sum);
      }
    });
    return distances;
  }

  // Moves z and returns how far.
  double Step(std::span<const Adapter> deltas, const std::vector<double>& distances, std::vector<double>* z) const {
    std::vector<double> weights;
    double total = 0;
    for (const double distance : distances) {
      weights.push_back(1 / std::max(config_.smoothing(), distance));
      total += weights.back();
    }
    std::vector<double> moved(z->size());
    ParallelFor(threads(), static_cast<int64_t>(z->size()), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        double sum = 0;
        for (size_t k = 0; k < deltas.size(); ++k) sum += weights[k] * deltas[k].values()[i];
        moved[i] = sum / total;
      }
    });
    double squared = 0;
    for (size_t i = 0; i < moved.size(); ++i) squared += (moved[i] - (*z)[i]) * (moved[i] - (*z)[i]);
    *z = std::move(moved);
    return std::sqrt(squared);
  }

  const proto::GeometricMedianConfig config_;
};

class GeometricMedianRule : public RobustRule {
 public:
  std::string_view name() const override { return kName; }

  int64_t MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t updates) const override {
    return RobustRule::MemoryBytes(job, state, updates) + (2 * 8 * state.num_elements());  // z, and z moved
  }

 private:
  absl::StatusOr<RobustConfig> Read(const proto::JobConfig& job) const override {
    WEFT_ASSIGN_OR_RETURN(proto::GeometricMedianConfig config, ReadConfig<proto::GeometricMedianConfig>(job));
    RobustConfig robust;
    robust.rule = config.rule();
    config.clear_rule();
    robust.text = RuleText(kName, config);
    return robust;
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Make(const proto::JobConfig& job, const CreateOptions& create,
                                                   RobustParts parts) const override {
    WEFT_ASSIGN_OR_RETURN(proto::GeometricMedianConfig config, ReadConfig<proto::GeometricMedianConfig>(job));
    return std::make_unique<GeometricMedian>(create, std::move(parts), std::move(config));
  }
};

WEFT_REGISTER_RULE(GeometricMedianRule);

}  // namespace
}  // namespace weft::aggregators
