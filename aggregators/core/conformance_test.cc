// The laws hold for a sound rule, and each one catches a rule that is broken in its way.
#include "aggregators/core/conformance.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "aggregators/core/exact_sum.h"
#include "common/hash.h"
#include "common/status_macros.h"

namespace weft::aggregators::conformance {
namespace {

enum class Fault {
  kNone,
  kPlanWithoutRoles,
  kPlanRepeatsRole,
  kPlanWithoutBound,
  kFloatSum,
  kMergeRounds,
  kMergeLosesCount,
  kLossySave,
  kRestoreAdds,
  kNoChecksum,
  kTakesAnyRound,
  kFoldsBeforeValidating,
  kTakesNan,
  kNamesNothing,
  kTakesZeroExamples,
  kBelievesExamples,
  kShrinks,
  kFinishesEmpty,
};

constexpr uint64_t kBound = 1000;

// A weighted mean with one fault.
class FaultyAggregator : public Aggregator {
 public:
  FaultyAggregator(Fault fault, const CreateOptions& options)
      : fault_(fault),
        layout_(options.global->layout_ptr()),
        start_(*options.global),
        sum_(layout_),
        floats_(layout_),
        round_(options.round) {}

  void FillPlan(proto::Plan* plan) const override {
    plan->clear_roles_trained();
    plan->clear_roles_sent();
    for (const char* role : {"lora_a", "lora_b", "head"}) {
      plan->add_roles_trained(role);
      if (Has(Fault::kPlanRepeatsRole)) plan->add_roles_trained(role);
      plan->add_roles_sent(role);
    }
    if (Has(Fault::kPlanWithoutRoles)) plan->clear_roles_trained();
    plan->set_max_examples(Has(Fault::kPlanWithoutBound) ? 0 : kBound);
  }

  absl::Status Validate(const ClientUpdate& update) const override {
    const bool strict = !Has(Fault::kTakesZeroExamples);
    if ((strict && update.examples == 0) || update.examples > uint64_t{1} << 32) {
      return absl::InvalidArgumentError("examples: absurd");
    }
    const absl::Status status = Has(Fault::kTakesNan) && update.tensors.layout() == *layout_
                                    ? sum_.Check(WithoutNan(update.tensors), Weight(update))
                                    : sum_.Check(update.tensors, Weight(update));
    return !status.ok() && Has(Fault::kNamesNothing) ? absl::InvalidArgumentError("bad update") : status;
  }

  absl::Status Accumulate(std::span<const ClientUpdate> updates) override {
    for (const ClientUpdate& update : updates) WEFT_RETURN_IF_ERROR(Take(update));
    return absl::OkStatus();
  }

  absl::Status Take(const ClientUpdate& update) {
    if (Has(Fault::kFoldsBeforeValidating) && update.tensors.layout() == *layout_ && update.examples < kBound) {
      WEFT_RETURN_IF_ERROR(sum_.Add(WithoutNan(update.tensors), Weight(update)));
      return Validate(update);
    }
    WEFT_RETURN_IF_ERROR(Validate(update));
    const Adapter decoded = update.tensors.Decode();
    for (size_t i = 0; i < floats_.values().size(); ++i) {
      floats_.values()[i] += static_cast<float>(Weight(update)) * decoded.values()[i];
    }
    return sum_.Add(Has(Fault::kTakesNan) ? WithoutNan(update.tensors) : *EncodedUpdate::Encode(decoded, {}),
                    Weight(update));
  }

  absl::Status MergeWith(Aggregator&& other) override {
    auto* part = dynamic_cast<FaultyAggregator*>(&other);
    if (part == nullptr) return absl::InvalidArgumentError("merge: another rule");
    if (part->round_ != round_ && !Has(Fault::kTakesAnyRound))
      return absl::InvalidArgumentError("merge: another round");
    if (Has(Fault::kMergeLosesCount)) lost_ += part->count();
    if (Has(Fault::kMergeRounds) && part->count() > 0) part->Round();
    return sum_.Merge(part->sum_);
  }

  absl::StatusOr<Adapter> Finish() && override {
    if (Has(Fault::kFinishesEmpty) && sum_.updates() == 0) return Adapter(layout_);
    WEFT_ASSIGN_OR_RETURN(Adapter mean, sum_.Mean());
    for (size_t i = 0; i < mean.values().size(); ++i) {
      if (Has(Fault::kFloatSum)) mean.values()[i] = floats_.values()[i] / static_cast<float>(sum_.total_weight());
      mean.values()[i] += start_.values()[i];
      if (Has(Fault::kShrinks)) mean.values()[i] = std::nextafter(mean.values()[i], 0.0f);
    }
    return mean;
  }

  absl::StatusOr<std::string> Save() const override {
    if (Has(Fault::kLossySave) && sum_.updates() > 0) {
      FaultyAggregator rounded(fault_, {.global = &floats_, .round = round_});
      WEFT_RETURN_IF_ERROR(rounded.sum_.Merge(sum_));
      rounded.Round();
      return rounded.sum_.Save(Binding());
    }
    std::string state = sum_.Save(Binding());
    if (Has(Fault::kNoChecksum)) state.resize(state.size() - 32);
    return state;
  }

  absl::Status Restore(std::string_view state) override {
    std::string bytes(state);
    if (Has(Fault::kNoChecksum)) bytes += Sha256Of(bytes);
    ExactSum restored(layout_);
    WEFT_RETURN_IF_ERROR(restored.Restore(Binding(), bytes));
    if (Has(Fault::kRestoreAdds)) return sum_.Merge(restored);
    sum_ = std::move(restored);
    return absl::OkStatus();
  }

  int64_t count() const override { return sum_.updates() - lost_; }

 private:
  bool Has(Fault fault) const { return fault_ == fault; }
  uint64_t Weight(const ClientUpdate& update) const {
    if (Has(Fault::kBelievesExamples)) return update.examples;
    return std::clamp<uint64_t>(update.examples, 1, kBound);
  }
  std::string Binding() const { return absl::StrCat("faulty ", Has(Fault::kTakesAnyRound) ? 0 : round_); }

  EncodedUpdate WithoutNan(const EncodedUpdate& update) const {
    Adapter clean = update.Decode();
    for (float& x : clean.values()) x = std::fabs(x) < 0x1p16f ? x : 0;  // NaN and Inf among them
    return *EncodedUpdate::Encode(clean, {});
  }

  // The mean so far takes the place of what was added.
  void Round() {
    const uint64_t weight = sum_.total_weight();
    const int64_t updates = sum_.updates();
    const EncodedUpdate mean = *EncodedUpdate::Encode(*sum_.Mean(), {});
    sum_ = ExactSum(layout_);
    for (int64_t i = 1; i < updates; ++i) ASSERT_TRUE(sum_.Add(mean, 1).ok());
    ASSERT_TRUE(sum_.Add(mean, weight - static_cast<uint64_t>(updates) + 1).ok());
  }

  Fault fault_;
  std::shared_ptr<const Layout> layout_;
  const Adapter& start_;
  ExactSum sum_;
  Adapter floats_;
  int64_t round_;
  int64_t lost_ = 0;
};

class FaultyRule : public Rule {
 public:
  explicit FaultyRule(Fault fault) : fault_(fault) {}
  std::string_view name() const override { return "faulty"; }
  Facts facts() const override { return {.linear = true, .returns_single_update = true}; }
  absl::Status CheckJob(const proto::JobConfig& job, const Layout&) const override {
    return job.aggregator().name() == "faulty" ? absl::OkStatus() : absl::InvalidArgumentError("not my job");
  }
  int64_t MemoryBytes(const proto::JobConfig&, const Layout&, int64_t) const override { return 0; }
  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig&,
                                                     const CreateOptions& options) const override {
    return std::make_unique<FaultyAggregator>(fault_, options);
  }

 private:
  Fault fault_;
};

absl::Status Check(Fault fault, std::string_view law) {
  const FaultyRule rule(fault);
  for (const Law& known : Laws()) {
    if (known.name == law) return known.check(SmallSubject(&rule));
  }
  return absl::NotFoundError("no such law");
}

TEST(ConformanceTest, ExpectLawsHold_SoundRulePasses) {
  const FaultyRule rule(Fault::kNone);
  ExpectLawsHold(SmallSubject(&rule));
}

TEST(ConformanceTest, ExpectLawsHold_BrokenLawFailsTheTestByName) {
  const FaultyRule rule(Fault::kBelievesExamples);
  EXPECT_NONFATAL_FAILURE(ExpectLawsHold(SmallSubject(&rule)), "rule faulty breaks BoundIsKept");
}

TEST(ConformanceTest, Laws_EachCatchesTheRuleThatBreaksIt) {
  struct Case {
    Fault fault;
    const char* law;
  };
  const Case cases[] = {
      {Fault::kPlanWithoutRoles, "PlanIsFilled"},
      {Fault::kPlanRepeatsRole, "PlanIsFilled"},
      {Fault::kPlanWithoutBound, "PlanIsFilled"},
      {Fault::kFloatSum, "AnyArrivalOrder"},
      {Fault::kMergeRounds, "AnySplit"},
      {Fault::kMergeLosesCount, "AnySplit"},
      {Fault::kLossySave, "SaveRestoreMidway"},
      {Fault::kRestoreAdds, "SaveRestoreMidway"},
      {Fault::kNoChecksum, "DamagedStateRefused"},
      {Fault::kTakesAnyRound, "ForeignStateRefused"},
      {Fault::kFoldsBeforeValidating, "RefusalLeavesNoTrace"},
      {Fault::kTakesNan, "RefusalLeavesNoTrace"},
      {Fault::kNamesNothing, "RefusalLeavesNoTrace"},
      {Fault::kTakesZeroExamples, "RefusalLeavesNoTrace"},
      {Fault::kBelievesExamples, "BoundIsKept"},
      {Fault::kShrinks, "OwnUpdateBack"},
      {Fault::kFinishesEmpty, "EmptyFinishRefused"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(Check(Fault::kNone, c.law), absl::OkStatus()) << c.law;
    // INTERNAL: the law itself has found it, no call has failed on the way.
    EXPECT_EQ(Check(c.fault, c.law).code(), absl::StatusCode::kInternal)
        << c.law << " let fault " << static_cast<int>(c.fault) << " pass";
  }
  for (const Law& law : Laws()) {
    EXPECT_TRUE(std::any_of(std::begin(cases), std::end(cases), [&](const Case& c) { return law.name == c.law; }))
        << law.name << " is never seen to fail";
  }
}

TEST(ConformanceTest, Laws_JobThatTheRuleRefusesIsNotPassedOver) {
  const FaultyRule rule(Fault::kNone);
  Subject subject = SmallSubject(&rule);
  subject.job.mutable_aggregator()->set_name("another");
  for (const Law& law : Laws()) EXPECT_FALSE(law.check(subject).ok()) << law.name;
}

TEST(ConformanceTest, ForeignStateRefused_OtherConfigThatIsTakenIn) {
  const FaultyRule rule(Fault::kNone);
  Subject subject = SmallSubject(&rule);
  subject.other = subject.job;  // this rule has no config, so its state must not be told apart
  for (const Law& law : Laws()) EXPECT_EQ(law.check(subject).ok(), law.name != "ForeignStateRefused") << law.name;
}

}  // namespace
}  // namespace weft::aggregators::conformance
