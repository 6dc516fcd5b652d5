#include "aggregators/core/robust.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "aggregators/core/cohort.h"
#include "aggregators/core/state.h"
#include "common/parallel.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

bool NamesWeights(const google::protobuf::Struct& config) {
  for (const auto& [key, value] : config.fields()) {
    if (key == "weights" || (value.has_struct_value() && NamesWeights(value.struct_value()))) return true;
  }
  return false;
}

bool Sends(const proto::Plan& plan, std::string_view role) {
  return std::find(plan.roles_sent().begin(), plan.roles_sent().end(), role) != plan.roles_sent().end();
}

// Rules that send the factors in turn send them in rounds that follow each other.
absl::Status CheckPairs(const Inner& inner, std::string_view wrapper, const Layout& layout) {
  if (!HasRole(layout, kRoleLoraA) || !HasRole(layout, kRoleLoraB)) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> copy, Layout::Create(layout.tensors()));
  WEFT_ASSIGN_OR_RETURN(const Adapter state, inner.rule->InitialState(inner.job, Adapter(std::move(copy))));
  for (const int64_t round : {1, 2}) {
    WEFT_ASSIGN_OR_RETURN(const auto aggregator, inner.rule->Create(inner.job, {.global = &state, .round = round}));
    proto::Plan plan;
    aggregator->FillPlan(&plan);
    if (!Sends(plan, kRoleLoraA) || !Sends(plan, kRoleLoraB)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "aggregator.config.rule: found ", std::string(inner.rule->name()),
        ", under which clients send both LoRA factors in one round; ", std::string(wrapper),
        " takes each coordinate from other clients, so that B and A would no longer belong together; use ffa_lora or "
        "rolora inside, or krum, geometric_median or norm_bound around, or say allow_unpaired_factors: true"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Inner> CheckInner(const proto::JobConfig& job, std::string_view wrapper, const RobustConfig& config,
                                 const Layout& layout) {
  WEFT_ASSIGN_OR_RETURN(Inner inner, FindInner(job, config.rule, wrapper, Need::kFinishFromMean));
  if (NamesWeights(config.rule.config())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "aggregator.config.rule.config.weights: found weights inside ", std::string(wrapper),
        ", which counts every client alike, for the number of examples is the client's own word; leave them out"));
  }
  WEFT_RETURN_IF_ERROR(inner.rule->CheckJob(inner.job, layout));
  if (config.splits_pairs) WEFT_RETURN_IF_ERROR(CheckPairs(inner, wrapper, layout));
  return inner;
}

absl::StatusOr<RobustParts> MakeParts(const proto::JobConfig& job, std::string_view wrapper, const RobustConfig& config,
                                      const CreateOptions& create) {
  WEFT_ASSIGN_OR_RETURN(const Inner inner, FindInner(job, config.rule, wrapper, Need::kFinishFromMean));
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Aggregator> aggregator, inner.rule->Create(inner.job, create));
  proto::Plan plan;
  aggregator->FillPlan(&plan);
  proto::WeightsConfig alike;
  alike.set_by("uniform");
  const std::string text = absl::StrCat(config.text, " around ", InnerText(config.rule));
  WEFT_ASSIGN_OR_RETURN(
      UpdateTerms terms,
      UpdateTerms::Create(create, {.rule = text,
                                   .weights = alike,
                                   .roles_trained = {plan.roles_trained().begin(), plan.roles_trained().end()},
                                   .roles_sent = {plan.roles_sent().begin(), plan.roles_sent().end()}}));
  return RobustParts{std::move(terms), std::move(aggregator)};
}

void RobustAggregator::FillPlan(proto::Plan* plan) const {
  inner_->FillPlan(plan);
  terms().FillPlan(plan);
}

absl::StatusOr<Adapter> RobustAggregator::Combine(std::span<const KeptUpdate* const> updates) {
  const std::vector<Adapter> deltas = DecodeAll(updates, threads());
  WEFT_ASSIGN_OR_RETURN(const Adapter centre, Centre(deltas));
  return std::move(*inner_).FinishFromMean(centre, static_cast<int64_t>(deltas.size()));
}

absl::Status RobustRule::CheckJob(const proto::JobConfig& job, const Layout& layout) const {
  WEFT_ASSIGN_OR_RETURN(const RobustConfig config, Read(job));
  WEFT_RETURN_IF_ERROR(CheckInner(job, name(), config, layout).status());
  return CheckMore(job, layout);
}

absl::StatusOr<Adapter> RobustRule::InitialState(const proto::JobConfig& job, Adapter initial) const {
  WEFT_ASSIGN_OR_RETURN(const RobustConfig config, Read(job));
  WEFT_ASSIGN_OR_RETURN(const Inner inner, FindInner(job, config.rule, name(), Need::kFinishFromMean));
  return inner.rule->InitialState(inner.job, std::move(initial));
}

std::optional<PrivacySpent> RobustRule::Spent(const proto::JobConfig& job, int64_t rounds) const {
  const absl::StatusOr<RobustConfig> config = Read(job);
  if (!config.ok()) return std::nullopt;
  const absl::StatusOr<Inner> inner = FindInner(job, config->rule, name(), Need::kFinishFromMean);
  return inner.ok() ? inner->rule->Spent(inner->job, rounds) : std::nullopt;
}

int64_t RobustRule::MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t updates) const {
  return KeptBytes(job, state, updates) + DecodedBytes(state, updates + 1) + InnerMemoryBytes(job, state);
}

int64_t RobustRule::InnerMemoryBytes(const proto::JobConfig& job, const Layout& state) const {
  const absl::StatusOr<RobustConfig> config = Read(job);
  if (!config.ok()) return 0;
  const absl::StatusOr<Inner> inner = FindInner(job, config->rule, name(), Need::kFinishFromMean);
  return inner.ok() ? inner->rule->MemoryBytes(inner->job, state, 1) : 0;
}

absl::StatusOr<std::unique_ptr<Aggregator>> RobustRule::Create(const proto::JobConfig& job,
                                                               const CreateOptions& create) const {
  WEFT_ASSIGN_OR_RETURN(const RobustConfig config, Read(job));
  WEFT_ASSIGN_OR_RETURN(RobustParts parts, MakeParts(job, name(), config, create));
  return Make(job, create, std::move(parts));
}

Adapter CoordinateWise(std::span<const Adapter> deltas, int threads,
                       const std::function<float(std::span<float> values)>& centre_of) {
  Adapter centre(deltas[0].layout_ptr());
  const std::span<float> out = centre.values();
  ParallelFor(threads, static_cast<int64_t>(out.size()), [&](int64_t begin, int64_t end) {
    std::vector<float> values(deltas.size());
    for (int64_t i = begin; i < end; ++i) {
      for (size_t k = 0; k < deltas.size(); ++k) values[k] = deltas[k].values()[i];
      out[i] = centre_of(values);
    }
  });
  return centre;
}

float MedianOf(std::span<float> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  const float below = *std::max_element(values.begin(), middle);
  return static_cast<float>((static_cast<double>(below) + *middle) / 2);
}

}  // namespace weft::aggregators
