// The rule "krum": Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", arXiv
// 1703.02757, section 4: the score of a delta is the sum of squared distances to its n - f - 2 nearest others, the m
// deltas of lowest score are averaged (m = 1: Krum; more: Multi-Krum). Of equal scores the first client by id wins. n
// >= 2 f + 3. Distances are over the whole delta, not summed tensor by tensor. The rule inside makes the next state of
// the centre.

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "aggregators/core/cohort.h"
#include "aggregators/core/factored.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/robust.h"
#include "aggregators/krum/krum.pb.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "krum";

// The fewest updates of a round.
int64_t Fewest(const proto::KrumConfig& config) { return std::max((2 * config.f()) + 3, config.m() + config.f()); }

// Adds |x_k - x_l|^2 of one tensor to `distances`, for tensors that `counts` picks.
template <typename Counts>
void AddDeltaDistances(std::span<const Adapter> deltas, int threads, const Counts& counts, Matrix* distances) {
  const auto n = static_cast<int64_t>(deltas.size());
  // A pair is one sum in element order, on one thread.
  ForEachModule(n * n, threads, [&](int64_t pair) {
    const int64_t k = pair / n, l = pair % n;
    if (k >= l) return;
    double sum = 0;
    for (const TensorSpec& spec : deltas[k].layout().tensors()) {
      if (!counts(spec)) continue;
      const std::span<const float> x = deltas[k].tensor(spec), y = deltas[l].tensor(spec);
      for (int64_t i = 0; i < spec.size; ++i) {
        const double difference = static_cast<double>(x[i]) - y[i];
        sum += difference * difference;
      }
    }
    (*distances)(k, l) += sum;
    (*distances)(l, k) += sum;
  });
}

class Krum : public RobustAggregator {
 public:
  Krum(const CreateOptions& create, RobustParts parts, proto::KrumConfig config)
      : RobustAggregator(create, std::move(parts)), config_(std::move(config)) {}

 private:
  absl::StatusOr<Adapter> Centre(std::span<const Adapter> deltas) override {
    const auto n = static_cast<int64_t>(deltas.size());
    if (n < Fewest(config_)) {
      return absl::FailedPreconditionError(absl::StrCat("krum: found ", n, " updates, expected at least ",
                                                        Fewest(config_), " (2 f + 3, and m + f) with f = ", config_.f(),
                                                        " and m = ", config_.m(), "; set round.min_updates to it"));
    }
    WEFT_ASSIGN_OR_RETURN(const Matrix distances, Distances(deltas));
    const std::vector<int64_t> chosen = Chosen(distances);
    std::vector<double> shares(n, 0.0);
    for (const int64_t k : chosen) shares[k] = 1 / static_cast<double>(chosen.size());
    return WeightedMean(deltas, shares, threads());
  }

  // The m of lowest score.
  std::vector<int64_t> Chosen(const Matrix& distances) const {
    const int64_t n = distances.rows;
    std::vector<double> scores(n);
    for (int64_t k = 0; k < n; ++k) {
      std::vector<double> to_others;
      for (int64_t l = 0; l < n; ++l) {
        if (l != k) to_others.push_back(distances(k, l));
      }
      std::sort(to_others.begin(), to_others.end());
      scores[k] = std::accumulate(to_others.begin(), to_others.begin() + (n - config_.f() - 2), 0.0);
    }
    std::vector<int64_t> order(n);
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [&](int64_t k, int64_t l) { return scores[k] < scores[l]; });
    order.resize(config_.m());
    return order;
  }

  absl::StatusOr<Matrix> Distances(std::span<const Adapter> deltas) const {
    const auto n = static_cast<int64_t>(deltas.size());
    Matrix distances(n, n);
    const bool product = config_.distance() == "product";
    AddDeltaDistances(
        deltas, threads(), [&](const TensorSpec& spec) { return !product || !RankAxis(spec.role).has_value(); },
        &distances);
    if (product) WEFT_RETURN_IF_ERROR(AddProductDistances(deltas, &distances));
    return distances;
  }

  // |B_k A_k - B_l A_l|^2 of the factors as trained; one that was not sent is as broadcast.
  absl::Status AddProductDistances(std::span<const Adapter> deltas, Matrix* distances) const {
    WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(state().layout()));
    std::vector<Matrix> of_modules(pairs.size());
    std::vector<absl::Status> status(pairs.size());
    ForEachModule(static_cast<int64_t>(pairs.size()), threads(), [&](int64_t m) {
      std::vector<std::vector<float>> values;
      for (const Adapter& delta : deltas) {
        values.push_back(Trained(*pairs[m].a, delta));
        values.push_back(Trained(*pairs[m].b, delta));
      }
      std::vector<ClientFactors> clients;
      for (size_t k = 0; k < values.size(); k += 2) {
        clients.push_back({.a = values[k], .b = values[k + 1], .rank = pairs[m].rank, .weight = 1});
      }
      absl::StatusOr<FactorStack> stack = FactorStack::Create(pairs[m].in, pairs[m].out, std::move(clients));
      status[m] = stack.status();
      if (stack.ok()) of_modules[m] = SquaredDistances(stack->InnerProducts());
    });
    for (size_t m = 0; m < pairs.size(); ++m) {
      WEFT_RETURN_IF_ERROR(status[m]);
      for (size_t i = 0; i < distances->values.size(); ++i) distances->values[i] += of_modules[m].values[i];
    }
    return absl::OkStatus();
  }

  std::vector<float> Trained(const TensorSpec& spec, const Adapter& delta) const {
    const std::span<const float> start = state().tensor(spec);
    std::vector<float> values(start.begin(), start.end());
    const TensorSpec* sent = delta.layout().Find(spec.name);
    for (int64_t i = 0; sent != nullptr && i < spec.size; ++i) values[i] += delta.tensor(*sent)[i];
    return values;
  }

  const proto::KrumConfig config_;
};

class KrumRule : public RobustRule {
 public:
  std::string_view name() const override { return kName; }

  int64_t MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t updates) const override {
    // Distances, and under `product` the trained factors and the Grams of the modules under way.
    int64_t rank = 0;
    for (const TensorSpec& spec : state.tensors()) {
      if (spec.role == kRoleLoraA) rank = std::max(rank, spec.shape[0]);
    }
    const int64_t components = updates * rank;
    return RobustRule::MemoryBytes(job, state, updates) + DecodedBytes(state, updates) +
           (8 * 4 * ((updates * updates) + (components * components)));
  }

 private:
  absl::StatusOr<RobustConfig> Read(const proto::JobConfig& job) const override {
    WEFT_ASSIGN_OR_RETURN(proto::KrumConfig config, ReadConfig<proto::KrumConfig>(job));
    RobustConfig robust;
    robust.rule = config.rule();
    config.clear_rule();
    robust.text = RuleText(kName, config);
    return robust;
  }

  absl::Status CheckMore(const proto::JobConfig& job, const Layout& layout) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::KrumConfig config, ReadConfig<proto::KrumConfig>(job));
    const int64_t fewest = Fewest(config);
    if (job.selection().has_clients() && job.selection().clients() < fewest) {
      return absl::InvalidArgumentError(absl::StrCat("selection.clients: found ", job.selection().clients(),
                                                     ", expected at least ", fewest,
                                                     " (2 f + 3, and m + f) under krum with f = ", config.f(),
                                                     " and m = ", config.m(), "; select more or lower f or m"));
    }
    if (job.round().min_updates() < fewest) {
      return absl::InvalidArgumentError(
          absl::StrCat("round.min_updates: found ", job.round().min_updates(), ", expected at least ", fewest,
                       " (2 f + 3, and m + f) under krum with f = ", config.f(), " and m = ", config.m(),
                       ", so that no round closes with too few updates to compare; set it to that"));
    }
    if (config.distance() != "product") return absl::OkStatus();
    WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(layout));
    if (!pairs.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "aggregator.config.distance: found product with an adapter that has no LoRA factors; use distance: delta");
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Make(const proto::JobConfig& job, const CreateOptions& create,
                                                   RobustParts parts) const override {
    WEFT_ASSIGN_OR_RETURN(proto::KrumConfig config, ReadConfig<proto::KrumConfig>(job));
    return std::make_unique<Krum>(create, std::move(parts), std::move(config));
  }
};

WEFT_REGISTER_RULE(KrumRule);

}  // namespace
}  // namespace weft::aggregators
