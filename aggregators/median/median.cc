// The rule "median": Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", arXiv
// 1803.01498, Definition 1 (coordinate-wise median): of each element of the deltas, over the clients, the middle value;
// of an even number of clients the mean of the two in the middle. The rule inside makes the next state of it.

#include <memory>
#include <utility>

#include "aggregators/core/registry.h"
#include "aggregators/core/robust.h"
#include "aggregators/median/median.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "median";

class Median : public RobustAggregator {
 public:
  using RobustAggregator::RobustAggregator;

 private:
  absl::StatusOr<Adapter> Centre(std::span<const Adapter> deltas) override {
    return CoordinateWise(deltas, threads(), MedianOf);
  }
};

class MedianRule : public RobustRule {
 public:
  std::string_view name() const override { return kName; }

 private:
  absl::StatusOr<RobustConfig> Read(const proto::JobConfig& job) const override {
    WEFT_ASSIGN_OR_RETURN(proto::MedianConfig config, ReadConfig<proto::MedianConfig>(job));
    RobustConfig robust;
    robust.rule = config.rule();
    robust.splits_pairs = !config.allow_unpaired_factors();
    config.clear_rule();
    robust.text = RuleText(kName, config);
    return robust;
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Make(const proto::JobConfig&, const CreateOptions& create,
                                                   RobustParts parts) const override {
    return std::make_unique<Median>(create, std::move(parts));
  }
};

WEFT_REGISTER_RULE(MedianRule);

}  // namespace
}  // namespace weft::aggregators
