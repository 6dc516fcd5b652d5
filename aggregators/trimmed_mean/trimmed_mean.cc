// The rule "trimmed_mean": Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
// arXiv 1803.01498, Definition 2 (coordinate-wise trimmed mean): of each element of the deltas, over n clients, the
// floor(beta n) smallest and as many largest values are left out, and the rest averaged, all alike. The rule inside
// makes the next state of it.

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "aggregators/core/registry.h"
#include "aggregators/core/robust.h"
#include "aggregators/trimmed_mean/trimmed_mean.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "trimmed_mean";

class TrimmedMean : public RobustAggregator {
 public:
  TrimmedMean(const CreateOptions& create, RobustParts parts, double beta)
      : RobustAggregator(create, std::move(parts)), beta_(beta) {}

 private:
  absl::StatusOr<Adapter> Centre(std::span<const Adapter> deltas) override {
    // beta is a decimal fraction as an fp64: 0.29 * 100 must count as 29, though it is a little less.
    const auto cut = static_cast<size_t>(std::floor((beta_ * static_cast<double>(deltas.size())) + 1e-9));
    return CoordinateWise(deltas, threads(), [cut](std::span<float> values) {
      std::sort(values.begin(), values.end());
      double sum = 0;
      for (size_t i = cut; i < values.size() - cut; ++i) sum += values[i];
      return static_cast<float>(sum / static_cast<double>(values.size() - (2 * cut)));
    });
  }

  const double beta_;
};

class TrimmedMeanRule : public RobustRule {
 public:
  std::string_view name() const override { return kName; }

 private:
  absl::StatusOr<RobustConfig> Read(const proto::JobConfig& job) const override {
    WEFT_ASSIGN_OR_RETURN(proto::TrimmedMeanConfig config, ReadConfig<proto::TrimmedMeanConfig>(job));
    RobustConfig robust;
    robust.rule = config.rule();
    robust.splits_pairs = !config.allow_unpaired_factors();
    config.clear_rule();
    robust.text = RuleText(kName, config);
    return robust;
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Make(const proto::JobConfig& job, const CreateOptions& create,
                                                   RobustParts parts) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::TrimmedMeanConfig config, ReadConfig<proto::TrimmedMeanConfig>(job));
    return std::make_unique<TrimmedMean>(create, std::move(parts), config.beta());
  }
};

WEFT_REGISTER_RULE(TrimmedMeanRule);

}  // namespace
}  // namespace weft::aggregators
