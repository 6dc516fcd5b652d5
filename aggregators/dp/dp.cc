// The rule "dp": central differential privacy of clients, by the Gaussian mechanism on the sum of clipped deltas:
// McMahan et al., "Learning Differentially Private Recurrent Language Models", arXiv 1710.06963, Algorithm 1 with the
// fixed denominator, around any rule whose next state is a function of the mean delta:
//   S = sum_k w_k clip(delta_k, C),  0 < w_k <= 1
//   mean = (S + N(0, (z C)^2 I)) / m,  m the expected number of updates
// and the rule inside makes the next state of the mean: post-processing. README.md says what that protects, and from
// whom.
//
// The sum is an exact integer in units of 2^-64, and so is the noise (privacy/noise/gaussian.h): what is released is a
// rounding of the continuous mechanism, and the accountant of that holds without an allowance.

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "aggregators/core/exact_sum.h"
#include "aggregators/core/inner.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/core/updates.h"
#include "aggregators/dp/dp_terms.h"
#include "common/parallel.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "privacy/accountant/rdp.h"
#include "privacy/clipping/clip.h"
#include "privacy/noise/gaussian.h"
#include "proto/schema.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "dp";
// Elements that share a source of noise: so the bits of seeded noise do not depend on the number of threads.
constexpr int64_t kNoiseChunk = int64_t{1} << 16;

class Dp : public Aggregator {
 public:
  struct Parts {
    DpTerms dp;
    UpdateTerms updates;
    std::unique_ptr<Aggregator> inner;
    uint64_t seed = 0;  // of this round's noise, where it is seeded
  };
  Dp(const CreateOptions& create, Parts parts)
      : dp_(std::move(parts.dp)),
        terms_(std::move(parts.updates)),
        inner_(std::move(parts.inner)),
        seed_(parts.seed),
        threads_(create.threads),
        sum_(terms_.layout()) {}

  void FillPlan(proto::Plan* plan) const override {
    inner_->FillPlan(plan);
    terms_.FillPlan(plan);
    plan->set_clip_update_norm(dp_.config.clip_norm());
  }

  absl::Status Validate(const ClientUpdate& update) const override {
    WEFT_RETURN_IF_ERROR(terms_.Check(update));
    return sum_.Check(update.tensors, terms_.Weight(update));
  }

  using Aggregator::Accumulate;
  absl::Status Accumulate(std::span<const ClientUpdate> updates) override {
    uint64_t together = 0;
    for (const ClientUpdate& update : updates) {
      WEFT_RETURN_IF_ERROR(Validate(update));
      together += terms_.Weight(update);
    }
    if (together > ExactSum::kMaxTotalWeight - sum_.total_weight()) {
      return absl::InvalidArgumentError(absl::StrCat("weight: found ", together, " on top of ", sum_.total_weight(),
                                                     ", expected a total of at most ", ExactSum::kMaxTotalWeight,
                                                     "; more clients answer than aggregator.config.clients says"));
    }
    // Whatever the client did: the bound is this line's to keep. One decoded copy at a time.
    for (const ClientUpdate& update : updates) {
      Adapter delta = update.tensors.Decode();
      WEFT_RETURN_IF_ERROR(privacy::ClipToNorm(dp_.config.clip_norm(), delta).status());
      const EncodedUpdate clipped = EncodedUpdate::View(delta);
      const EncodedUpdate* const one = &clipped;
      const uint64_t weight = terms_.Weight(update);
      sum_.AddChecked({&one, 1}, {&weight, 1}, threads_);
    }
    return absl::OkStatus();
  }

  absl::Status MergeWith(Aggregator&& other) override {
    auto* const part = dynamic_cast<Dp*>(&other);
    if (part == nullptr) return ForeignPart("another rule", terms_.binding());
    if (part == this) return ForeignPart("the sum itself", terms_.binding());
    if (part->terms_.binding() != terms_.binding()) return ForeignPart(part->terms_.binding(), terms_.binding());
    return sum_.Merge(part->sum_);
  }

  // Also of no update: under Poisson sampling an empty cohort is one of the outcomes, and its noise hides that it is.
  absl::StatusOr<Adapter> Finish() && override {
    Adapter mean(terms_.layout());
    WEFT_RETURN_IF_ERROR(ReleaseMean(mean.values()));
    // Not the number of updates, which is no secret but no release of the mechanism either.
    const auto updates = std::max<int64_t>(1, static_cast<int64_t>(dp_.expected_updates));
    return std::move(*inner_).FinishFromMean(mean, updates);
  }

  absl::StatusOr<std::string> Save() const override { return sum_.Save(terms_.binding()); }
  absl::Status Restore(std::string_view state) override { return sum_.Restore(terms_.binding(), state); }
  int64_t count() const override { return sum_.updates(); }

 private:
  std::unique_ptr<privacy::NoiseSource> SourceOf(int64_t chunk) const {
    if (dp_.config.noise() != "seeded") return std::make_unique<privacy::SecureNoise>();
    return std::make_unique<privacy::SeededNoise>(MixSeed(seed_, static_cast<uint64_t>(chunk)), StreamId("dp.noise"));
  }

  // (sum + noise) / denominator, in double and rounded to fp32. The noise is on the sum before anything is rounded.
  absl::Status ReleaseMean(std::span<float> mean) const {
    const auto size = static_cast<int64_t>(mean.size());
    const double deviation = dp_.Deviation(size);
    const int64_t chunks = (size + kNoiseChunk - 1) / kNoiseChunk;
    std::vector<absl::Status> statuses(static_cast<size_t>(chunks));
    ParallelFor(threads_, chunks, [&](int64_t first, int64_t last) {
      std::vector<__int128> noise;
      for (int64_t chunk = first; chunk < last; ++chunk) {
        const int64_t begin = chunk * kNoiseChunk;
        noise.resize(static_cast<size_t>(std::min(kNoiseChunk, size - begin)));
        statuses[static_cast<size_t>(chunk)] = SourceOf(chunk)->Fill(deviation, noise);
        for (size_t i = 0; i < noise.size(); ++i) {
          const int64_t at = begin + static_cast<int64_t>(i);
          const __int128 released = sum_.SumUnits(at) + noise[i];
          mean[static_cast<size_t>(at)] =
              static_cast<float>(static_cast<double>(released) * 0x1p-64 / dp_.Denominator());
        }
      }
    });
    for (const absl::Status& status : statuses) WEFT_RETURN_IF_ERROR(status);
    return absl::OkStatus();
  }

  const DpTerms dp_;
  const UpdateTerms terms_;
  std::unique_ptr<Aggregator> inner_;
  const uint64_t seed_;
  const int threads_;
  ExactSum sum_;
};

// Weights anywhere in the config of a rule inside.
bool NamesWeights(const google::protobuf::Struct& config) {
  return std::any_of(config.fields().begin(), config.fields().end(), [](const auto& field) {
    return field.first == "weights" || (field.second.has_struct_value() && NamesWeights(field.second.struct_value()));
  });
}

// The rule inside, with its job. Every rule further inside must also be post-processing of the mean.
absl::StatusOr<Inner> FindInnerOf(const proto::JobConfig& job, const proto::DpConfig& config) {
  WEFT_ASSIGN_OR_RETURN(Inner inner, FindInner(job, config.rule(), kName, Need::kCentralDp));
  inner.job.mutable_selection()->clear_clients();  // bounds the weights of a rule that sums; inside, it does not
  google::protobuf::Struct within = config.rule().config();
  while (true) {
    const auto next = within.fields().find("rule");
    if (next == within.fields().end()) return inner;
    proto::InnerRuleConfig rule;
    WEFT_RETURN_IF_ERROR(proto::FromStruct(next->second.struct_value(), "aggregator.config.rule.config.rule", &rule));
    WEFT_RETURN_IF_ERROR(FindInner(job, rule, kName, Need::kCentralDp).status());
    within = rule.config();
  }
}

// Clients must send tensors of the adapter alone: the clip is over those, and what else a rule has them send (control
// variates) would leave without noise. Rules that send in turn do so in rounds that follow each other.
absl::Status CheckRoles(const Inner& inner, const Layout& layout) {
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> copy, Layout::Create(layout.tensors()));
  WEFT_ASSIGN_OR_RETURN(const Adapter state, inner.rule->InitialState(inner.job, Adapter(std::move(copy))));
  for (const int64_t round : {1, 2}) {
    WEFT_ASSIGN_OR_RETURN(const auto aggregator, inner.rule->Create(inner.job, {.global = &state, .round = round}));
    proto::Plan plan;
    aggregator->FillPlan(&plan);
    for (const std::string& role : plan.roles_sent()) {
      if (IsAdapterRole(role)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "aggregator.config.rule: found ", std::string(inner.rule->name()), " inside dp, under which clients send ",
          role, ", expected tensors of the adapter alone; use fedavg or fedprox inside"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFirstRound(const proto::JobConfig& job, const DpTerms& terms) {
  WEFT_ASSIGN_OR_RETURN(const PrivacySpent spent, terms.Spent(1));
  if (spent.epsilon <= terms.epsilon_budget) return absl::OkStatus();
  const int64_t rounds = std::max<int64_t>(1, job.stop().rounds());
  const absl::StatusOr<double> enough = privacy::NoiseMultiplierFor(
      {.epsilon = terms.epsilon_budget, .delta = spent.delta, .q = terms.sampling_rate, .steps = rounds});
  return absl::InvalidArgumentError(absl::StrCat(
      "aggregator.config.epsilon_budget: found ", terms.epsilon_budget, ", which the first round passes: it spends ",
      spent.epsilon, " at noise multiplier ", terms.noise_multiplier, " and sampling rate ", terms.sampling_rate,
      enough.ok() ? absl::StrCat("; a noise multiplier of ", *enough, " makes ", rounds, " rounds fit it")
                  : "; raise noise_multiplier or the budget"));
}

class DpRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  // finishes_from_mean is not among them: a wrapper around dp would hand it a mean without clip and noise.
  Facts facts() const override { return {.linear = true, .finishes_empty = true, .wraps_rule = true}; }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout& layout) const override {
    WEFT_ASSIGN_OR_RETURN(const DpTerms terms, DpTerms::Read(job));
    WEFT_ASSIGN_OR_RETURN(const Inner inner, FindInnerOf(job, terms.config));
    if (NamesWeights(terms.config.rule().config())) {
      return absl::InvalidArgumentError(
          "aggregator.config.rule.config.weights: found weights inside dp, which weighs the clients itself; use "
          "aggregator.config.weights");
    }
    WEFT_RETURN_IF_ERROR(inner.rule->CheckJob(inner.job, layout));
    WEFT_RETURN_IF_ERROR(CheckRoles(inner, layout));
    return CheckFirstRound(job, terms);
  }

  absl::StatusOr<Adapter> InitialState(const proto::JobConfig& job, Adapter initial) const override {
    WEFT_ASSIGN_OR_RETURN(const DpTerms terms, DpTerms::Read(job));
    WEFT_ASSIGN_OR_RETURN(const Inner inner, FindInnerOf(job, terms.config));
    return inner.rule->InitialState(inner.job, std::move(initial));
  }

  std::optional<PrivacySpent> Spent(const proto::JobConfig& job, int64_t rounds) const override {
    const absl::StatusOr<DpTerms> terms = DpTerms::Read(job);
    const absl::StatusOr<PrivacySpent> spent = terms.ok() ? terms->Spent(rounds) : terms.status();
    return spent.ok() ? std::optional(*spent) : std::nullopt;
  }

  // The sum, one decoded copy, the mean; what the rule inside holds.
  int64_t MemoryBytes(const proto::JobConfig& job, const Layout& state, int64_t) const override {
    const absl::StatusOr<DpTerms> terms = DpTerms::Read(job);
    const absl::StatusOr<Inner> inner = terms.ok() ? FindInnerOf(job, terms->config) : terms.status();
    const int64_t inside = inner.ok() ? inner->rule->MemoryBytes(inner->job, state, 1) : 0;
    return ExactSum::MemoryBytes(state) + (2 * state.size_bytes()) + inside;
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& create) const override {
    WEFT_ASSIGN_OR_RETURN(DpTerms terms, DpTerms::Read(job));
    WEFT_ASSIGN_OR_RETURN(const Inner inner, FindInnerOf(job, terms.config));
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Aggregator> aggregator, inner.rule->Create(inner.job, create));
    proto::Plan plan;
    aggregator->FillPlan(&plan);
    proto::DpConfig own = terms.config;
    own.clear_rule();
    UpdateTerms::Options asked{.rule = absl::StrCat(RuleText(kName, own), " around ", InnerText(terms.config.rule())),
                               .roles_trained = {plan.roles_trained().begin(), plan.roles_trained().end()},
                               .roles_sent = {plan.roles_sent().begin(), plan.roles_sent().end()}};
    // min(examples, largest weight): all alike when that is 1.
    asked.weights.set_by("examples");
    asked.weights.set_max_examples(terms.largest_weight);
    WEFT_ASSIGN_OR_RETURN(UpdateTerms updates, UpdateTerms::Create(create, std::move(asked)));
    return std::make_unique<Dp>(create, Dp::Parts{.dp = std::move(terms),
                                                  .updates = std::move(updates),
                                                  .inner = std::move(aggregator),
                                                  .seed = MixSeed(job.seed(), static_cast<uint64_t>(create.round))});
  }
};

WEFT_REGISTER_RULE(DpRule);

}  // namespace
}  // namespace weft::aggregators
