#include "server/testing/fake_rules.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "aggregators/core/kept.h"
#include "aggregators/core/linear.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "common/status_macros.h"

namespace weft::server {
namespace {

using aggregators::Aggregator;
using aggregators::CreateOptions;
using aggregators::UpdateTerms;

UpdateTerms::Options Terms(const std::string& rule, const std::vector<std::string>& roles, bool mixed_ranks = false) {
  UpdateTerms::Options options;
  options.rule = rule;
  options.weights.set_by("examples");
  options.weights.set_max_examples(1000);
  options.roles_trained = options.roles_sent = roles;
  options.mixed_ranks = mixed_ranks;
  return options;
}

class FakeRule : public aggregators::Rule {
 public:
  aggregators::Facts facts() const override { return {.linear = true}; }
  absl::Status CheckJob(const proto::JobConfig&, const Layout&) const override { return absl::OkStatus(); }
  int64_t MemoryBytes(const proto::JobConfig&, const Layout& state, int64_t) const override {
    return aggregators::LinearAggregator::MemoryBytes(state);
  }
};

class Mean : public aggregators::LinearAggregator {
 public:
  using LinearAggregator::LinearAggregator;

 protected:
  absl::StatusOr<Adapter> Next(const Adapter& mean, int64_t) override { return aggregators::Plus(state(), mean); }
};

class BaseChanger : public Mean {
 public:
  BaseChanger(const CreateOptions& create, UpdateTerms terms) : Mean(create, std::move(terms)), round_(create.round) {}
  void FillPlan(proto::Plan* plan) const override {
    Mean::FillPlan(plan);
    plan->set_base_residual(aggregators::HasRole(state().layout(), "base_a"));
  }

 private:
  absl::StatusOr<Adapter> Next(const Adapter& mean, int64_t) override {
    std::vector<TensorSpec> tensors;
    for (const TensorSpec& tensor : state().layout().tensors()) {
      if (aggregators::IsAdapterRole(tensor.role)) tensors.push_back(tensor);
    }
    WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(state().layout()));
    for (const FactorPair& pair : pairs) {
      tensors.push_back({pair.module + ".base_A.weight", "base_a", {round_, pair.in}});
      tensors.push_back({pair.module + ".base_B.weight", "base_b", {pair.out, round_}});
    }
    WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, Layout::Create(std::move(tensors)));
    Adapter next(std::move(layout));
    for (const TensorSpec& tensor : next.layout().tensors()) {
      const std::span<float> to = next.tensor(tensor);
      const TensorSpec* from = aggregators::IsAdapterRole(tensor.role) ? mean.layout().Find(tensor.name) : nullptr;
      for (size_t i = 0; i < to.size(); ++i) {
        to[i] = from != nullptr ? state().tensor(*state().layout().Find(tensor.name))[i] + mean.tensor(*from)[i]
                                : 0.125f * static_cast<float>(round_ + static_cast<int64_t>(i % 5));
      }
    }
    return next;
  }

  const int64_t round_;
};

class BaseRule : public FakeRule {
 public:
  std::string_view name() const override { return "fake_base"; }
  aggregators::Facts facts() const override { return {.changes_base = true}; }
  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig&,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(
        UpdateTerms terms,
        UpdateTerms::Create(options, Terms("fake_base", aggregators::AdapterRoles(options.global->layout()))));
    return std::make_unique<BaseChanger>(options, std::move(terms));
  }
};

class AlternatingRule : public FakeRule {
 public:
  std::string_view name() const override { return "fake_alternating"; }
  absl::StatusOr<Adapter> InitialState(const proto::JobConfig&, Adapter initial) const override {
    return aggregators::Extend(initial, {{"server.momentum", "server.lora_a", {3}}});
  }
  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig&,
                                                     const CreateOptions& options) const override {
    const std::string role = options.round % 2 == 1 ? kRoleLoraB : kRoleLoraA;
    WEFT_ASSIGN_OR_RETURN(UpdateTerms terms, UpdateTerms::Create(options, Terms("fake_alternating", {role})));
    return std::make_unique<Mean>(options, std::move(terms));
  }
};

class FewComponents : public Mean {
 public:
  using Mean::Mean;
  void FillPlan(proto::Plan* plan) const override {
    Mean::FillPlan(plan);
    plan->set_keep_components(2);
  }
};

class ComponentsRule : public FakeRule {
 public:
  std::string_view name() const override { return "fake_components"; }
  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig&,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(
        UpdateTerms terms,
        UpdateTerms::Create(options, Terms("fake_components", aggregators::AdapterRoles(options.global->layout()))));
    return std::make_unique<FewComponents>(options, std::move(terms));
  }
};

// Holds a Mean. Without updates the state stays as it was.
class Held : public Aggregator {
 public:
  Held(const CreateOptions& create, UpdateTerms terms, bool gated)
      : state_(*create.global), gated_(gated), mean_(create, std::move(terms)) {}
  void FillPlan(proto::Plan* plan) const override { mean_.FillPlan(plan); }
  absl::Status Validate(const aggregators::ClientUpdate& update) const override { return mean_.Validate(update); }
  absl::Status Accumulate(std::span<const aggregators::ClientUpdate> updates) override {
    if (gated_) FoldGate::Global().Pass(updates.size());
    return mean_.Accumulate(updates);
  }
  absl::Status MergeWith(Aggregator&& other) override { return mean_.MergeWith(std::move(other)); }
  absl::StatusOr<Adapter> Finish() && override {
    if (mean_.count() == 0) return state_.Clone();
    return std::move(mean_).Finish();
  }
  absl::StatusOr<std::string> Save() const override { return mean_.Save(); }
  absl::Status Restore(std::string_view state) override { return mean_.Restore(state); }
  int64_t count() const override { return mean_.count(); }

 private:
  const Adapter& state_;
  const bool gated_;
  Mean mean_;
};

class PrivateRule : public FakeRule {
 public:
  std::string_view name() const override { return "fake_private"; }
  aggregators::Facts facts() const override { return {.linear = true, .finishes_empty = true}; }
  std::optional<aggregators::PrivacySpent> Spent(const proto::JobConfig& job, int64_t rounds) const override {
    const double per_round = job.seed() == kSpendsTooMuch ? 3 : 1;
    return aggregators::PrivacySpent{.epsilon = per_round * static_cast<double>(rounds),
                                     .epsilon_budget = kFakeBudget,
                                     .delta = kFakeDelta,
                                     .noise_multiplier = 1.5,
                                     .sampling_rate = 0.5};
  }
  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig&,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(
        UpdateTerms terms,
        UpdateTerms::Create(options, Terms("fake_private", aggregators::AdapterRoles(options.global->layout()))));
    return std::make_unique<Held>(options, std::move(terms), /*gated=*/false);
  }
};

class GateRule : public FakeRule {
 public:
  std::string_view name() const override { return "fake_gate"; }
  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig&,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(
        UpdateTerms terms,
        UpdateTerms::Create(options, Terms("fake_gate", aggregators::AdapterRoles(options.global->layout()))));
    return std::make_unique<Held>(options, std::move(terms), /*gated=*/true);
  }
};

class RanksAggregator : public aggregators::KeptAggregator {
 public:
  using KeptAggregator::KeptAggregator;

 private:
  absl::StatusOr<Adapter> Combine(std::span<const aggregators::KeptUpdate* const> updates) override {
    Adapter next = state().Clone();
    for (const aggregators::KeptUpdate* update : updates) {
      Adapter whole(state().layout_ptr());
      PutBack(update->tensors.Decode(), &whole);
      const auto share = 1.0f / static_cast<float>(updates.size());
      for (size_t i = 0; i < next.values().size(); ++i) next.values()[i] += share * whole.values()[i];
    }
    return next;
  }
};

class RanksRule : public FakeRule {
 public:
  std::string_view name() const override { return "fake_ranks"; }
  aggregators::Facts facts() const override { return {.needs_single_updates = true, .takes_mixed_ranks = true}; }
  int64_t MemoryBytes(const proto::JobConfig&, const Layout&, int64_t updates) const override {
    return updates * kFakeBytesPerUpdate;
  }
  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig&,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(
        UpdateTerms terms,
        UpdateTerms::Create(options, Terms("fake_ranks", aggregators::AdapterRoles(options.global->layout()), true)));
    return std::make_unique<RanksAggregator>(options, std::move(terms));
  }
};

WEFT_REGISTER_RULE(BaseRule);
WEFT_REGISTER_RULE(AlternatingRule);
WEFT_REGISTER_RULE(ComponentsRule);
WEFT_REGISTER_RULE(PrivateRule);
WEFT_REGISTER_RULE(GateRule);
WEFT_REGISTER_RULE(RanksRule);

}  // namespace

FoldGate& FoldGate::Global() {
  static auto* const gate = new FoldGate;
  return *gate;
}

void FoldGate::Close() {
  MutexLock lock(mutex_);
  open_ = false;
  groups_.clear();
}

void FoldGate::Open() {
  MutexLock lock(mutex_);
  open_ = true;
  changed_.NotifyAll();
}

std::vector<size_t> FoldGate::groups() {
  MutexLock lock(mutex_);
  return groups_;
}

void FoldGate::WaitForGroups(size_t count) {
  MutexLock lock(mutex_);
  changed_.Wait(lock, [&] { return groups_.size() >= count; });
}

void FoldGate::Pass(size_t group) {
  MutexLock lock(mutex_);
  groups_.push_back(group);
  changed_.NotifyAll();
  changed_.Wait(lock, [&] { return open_; });
}

}  // namespace weft::server
