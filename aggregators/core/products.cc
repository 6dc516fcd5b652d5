#include "aggregators/core/products.h"

#include <algorithm>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "aggregators/core/cohort.h"
#include "aggregators/core/state.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

constexpr char kRoleBaseA[] = "base_a", kRoleBaseB[] = "base_b";

std::string BaseName(const FactorPair& pair, bool is_a) {
  return absl::StrCat(pair.module, is_a ? ".base_A.weight" : ".base_B.weight");
}

// start + delta, in place of the delta.
void AddStart(const Adapter& start, Adapter* delta) {
  const Adapter cut = Cut(start, delta->layout_ptr());
  const std::span<float> values = delta->values();
  for (size_t i = 0; i < values.size(); ++i) values[i] += cut.values()[i];
}

std::vector<ModuleFactors> FactorsOf(const std::vector<FactorPair>& pairs, const std::vector<Adapter>& trained) {
  std::vector<ModuleFactors> modules;
  for (const FactorPair& pair : pairs) {
    ModuleFactors& module = modules.emplace_back(ModuleFactors{.in = pair.in, .out = pair.out, .clients = {}});
    for (const Adapter& adapter : trained) {
      const TensorSpec &a = *adapter.layout().Find(pair.a->name), &b = *adapter.layout().Find(pair.b->name);
      module.clients.push_back({.a = adapter.tensor(a), .b = adapter.tensor(b), .rank = a.shape[0], .weight = 0});
    }
  }
  return modules;
}

// The state without its step of the base, and with room for one of these ranks, where they are not 0.
absl::StatusOr<Adapter> NextOf(const Adapter& state, const std::vector<FactorPair>& pairs,
                               const std::vector<int64_t>& base_ranks) {
  std::vector<TensorSpec> tensors;
  for (const TensorSpec& spec : state.layout().tensors()) {
    if (spec.role != kRoleBaseA && spec.role != kRoleBaseB) tensors.push_back(spec);
  }
  for (size_t m = 0; m < pairs.size(); ++m) {
    if (base_ranks[m] == 0) continue;
    tensors.push_back({BaseName(pairs[m], true), kRoleBaseA, {base_ranks[m], pairs[m].in}});
    tensors.push_back({BaseName(pairs[m], false), kRoleBaseB, {pairs[m].out, base_ranks[m]}});
  }
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, Layout::Create(std::move(tensors)));
  Adapter next(std::move(layout));
  for (const TensorSpec& spec : next.layout().tensors()) {
    if (spec.role == kRoleBaseA || spec.role == kRoleBaseB) continue;
    const std::span<const float> values = state.tensor(*state.layout().Find(spec.name));
    std::copy(values.begin(), values.end(), next.tensor(spec).begin());
  }
  return next;
}

ModuleTargets TargetsOf(const FactorPair& pair, Adapter* next) {
  const auto values = [&](const std::string& name) {
    const TensorSpec* spec = next->layout().Find(name);
    return spec == nullptr ? std::span<float>() : next->tensor(*spec);
  };
  return {.a = values(pair.a->name),
          .b = values(pair.b->name),
          .base_a = values(BaseName(pair, true)),
          .base_b = values(BaseName(pair, false))};
}

}  // namespace

std::vector<double> ProductAggregator::Weigh(std::span<const KeptUpdate* const> updates,
                                             std::span<const ModuleFactors>) const {
  return Shares(updates);
}

absl::StatusOr<Adapter> ProductAggregator::Combine(std::span<const KeptUpdate* const> updates) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(state().layout()));
  std::vector<Adapter> clients = DecodeAll(updates, threads());
  std::vector<double> shares;
  std::vector<FactorStack> stacks;
  std::vector<int64_t> base_ranks;
  // The others need the deltas, the factors the values: these take the deltas' place.
  std::vector<Adapter> others;
  for (Adapter& client : clients) {
    std::vector<std::string> roles;
    for (const std::string& role : AdapterRoles(client.layout())) {
      if (!RankAxis(role).has_value()) roles.push_back(role);
    }
    if (!roles.empty()) {
      WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Layout> layout, SentLayout(client.layout(), roles, 0));
      others.push_back(Cut(client, layout));
    }
    AddStart(state(), &client);
  }
  std::vector<ModuleFactors> modules = FactorsOf(pairs, clients);
  shares = Weigh(updates, modules);
  for (ModuleFactors& module : modules) {
    for (size_t k = 0; k < shares.size(); ++k) module.clients[k].weight = shares[k];
    WEFT_ASSIGN_OR_RETURN(FactorStack stack, FactorStack::Create(module.in, module.out, std::move(module.clients)));
    base_ranks.push_back(BaseRank(stack));
    stacks.push_back(std::move(stack));
  }
  WEFT_ASSIGN_OR_RETURN(Adapter next, NextOf(state(), pairs, base_ranks));
  if (!others.empty()) AddMeanOfOthers(others, shares, &next);
  std::vector<absl::Status> solved(pairs.size());
  ForEachModule(static_cast<int64_t>(pairs.size()), threads(),
                [&](int64_t m) { solved[m] = Solve(stacks[m], TargetsOf(pairs[m], &next)); });
  for (size_t m = 0; m < pairs.size(); ++m) {
    if (solved[m].ok()) continue;
    return absl::Status(solved[m].code(), absl::StrCat("module ", pairs[m].module, ": ", solved[m].message()));
  }
  WEFT_RETURN_IF_ERROR(Complete(&next));
  return next;
}

int64_t LargestRank(const Layout& layout) {
  int64_t rank = 0;
  for (const TensorSpec& spec : layout.tensors()) {
    if (spec.role == kRoleLoraA) rank = std::max(rank, spec.shape[0]);
  }
  return rank;
}

int64_t ProductMemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t updates, int64_t base_rank) {
  int64_t base = 0, largest = 0;
  for (const TensorSpec& spec : state.tensors()) {
    const std::optional<int> axis = RankAxis(spec.role);
    if (!axis || spec.shape.size() != 2) continue;
    const int64_t width = spec.shape[1 - *axis], components = updates * spec.shape[*axis];
    base += 4 * width * base_rank;
    // Of either factor: fp64 copies in QR and their combinations; Grams, cores and eigenvectors.
    largest = std::max(largest, 8 * ((6 * width * components) + (8 * components * components)));
  }
  const auto workers = static_cast<int64_t>(std::max(1U, std::thread::hardware_concurrency()));
  return KeptBytes(job, state, updates) + DecodedBytes(state, updates + 1) + base + (2 * largest * workers);
}

}  // namespace weft::aggregators
