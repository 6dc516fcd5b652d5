#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "aggregators/core/exact_sum.h"
#include "aggregators/core/seeded_noise.h"
#include "aggregators/core/testing/rule_bench.h"
#include "privacy/accountant/rdp.h"

namespace weft::aggregators {
namespace {

using testing::Client;
using testing::Filled;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Random;
using testing::RuleBench;

constexpr char kFedAvg[] = R"({"name": "fedavg"})";

// Rules with the facts that keep a rule out of dp; none of them ever runs.
template <int kKind>
class Unfit : public Rule {
 public:
  std::string_view name() const override {
    constexpr const char* kNames[] = {"test_selects", "test_changes_base", "test_products"};
    return kNames[kKind];
  }
  Facts facts() const override {
    return {.needs_single_updates = kKind == 0, .needs_products = kKind == 2, .changes_base = kKind == 1};
  }
  absl::Status CheckJob(const proto::JobConfig&, const Layout&) const override { return absl::OkStatus(); }
  int64_t MemoryBytes(const proto::JobConfig&, const Layout&, int64_t) const override { return 0; }
  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig&, const CreateOptions&) const override {
    return absl::UnimplementedError("never made");
  }
};
WEFT_REGISTER_RULE(Unfit<0>);
WEFT_REGISTER_RULE(Unfit<1>);
WEFT_REGISTER_RULE(Unfit<2>);

class DpTest : public ::testing::Test {
 protected:
  DpTest() { AllowSeededNoise(); }

  // A job of ten clients with so little noise that sums show, unless `more` (", ..." in JSON) says otherwise.
  static std::string Config(const std::string& more = "", const std::string& clip = "2",
                            const std::string& noise = R"("noise_multiplier": 0.01)",
                            const std::string& rule = kFedAvg) {
    return absl::StrCat(R"({"clip_norm": )", clip, ", ", noise,
                        R"(, "epsilon_budget": 1000000, "delta": 1e-5, "clients": 10,)",
                        R"("noise": "seeded", "for_tests": true, "rule": )", rule, more, "}");
  }
  static RuleBench Bench(const std::string& config = Config(),
                         std::shared_ptr<const Layout> layout = testing::TwoModules()) {
    RuleBench bench("dp", config, std::move(layout));
    for (float& x : bench.start().values()) x = 0;
    return bench;
  }
  static void SamplePoisson(RuleBench& bench, double rate, int64_t min_updates = 0) {
    bench.job().mutable_selection()->set_rule("poisson");
    bench.job().mutable_selection()->set_rate(rate);
    bench.job().mutable_round()->set_min_updates(min_updates);
  }
  static std::shared_ptr<const Layout> Values(int64_t count) {
    return *Layout::Create({{.name = "x", .role = "head", .shape = {count}}});
  }
  static double NormOf(std::span<const float> values) {
    double sum = 0;
    for (const float x : values) sum += static_cast<double>(x) * x;
    return std::sqrt(sum);
  }
  static double Distance(const Adapter& a, const Adapter& b) {
    Adapter difference = a.Clone();
    for (size_t i = 0; i < difference.values().size(); ++i) difference.values()[i] -= b.values()[i];
    return NormOf(difference.values());
  }
  // Standard deviation of the values times `unit`.
  static double SpreadOf(std::span<const float> values, double unit) {
    double sum = 0;
    for (const float x : values) sum += static_cast<double>(x) * x;
    return std::sqrt(sum / static_cast<double>(values.size())) * unit;
  }
};

TEST_F(DpTest, Conformance_AllLawsHold) {
  for (const proto::EncodingConfig& encoding : conformance::Encodings()) {
    conformance::Subject subject = Bench().Subject();
    subject.encoding = encoding;
    subject.other = subject.job;
    *subject.other->mutable_aggregator()->mutable_config() = RuleBench::Parsed(Config("", "3"));
    conformance::ExpectLawsHold(subject);
  }
}

TEST_F(DpTest, Conformance_AllLawsHoldWithBoundedWeightsAndAnotherRuleInside) {
  conformance::Subject subject = Bench(Config(R"(, "weights": {"by": "bounded", "max_examples": 100})", "2",
                                              R"("noise_multiplier": 1)", R"({"name": "ffa_lora"})"))
                                     .Subject();
  subject.other = subject.job;
  *subject.other->mutable_aggregator()->mutable_config() =
      RuleBench::Parsed(Config(R"(, "weights": {"by": "bounded", "max_examples": 100})", "2",
                               R"("noise_multiplier": 1)", R"({"name": "fedavg"})"));
  conformance::ExpectLawsHold(subject);
}

// The noise of one seed and round is the same in both cohorts: what is left is the sums' difference, times 1/m.
TEST_F(DpTest, Accumulate_OneClientMovesTheSumByTheClipAtMost) {
  const RuleBench bench = Bench();
  const RuleBench unclipped("fedavg");
  std::vector<Client> others;
  for (uint64_t k = 0; k < 4; ++k) others.push_back(bench.Draw(k, 1 + k, k % 2 == 0 ? 0.01 : 50));
  const Adapter without = *bench.Round(others);
  std::vector<Adapter> attacks;
  attacks.push_back(Filled(bench.SentOf(), 65535));
  attacks.push_back(Filled(bench.SentOf(), -65535));
  attacks.push_back(Filled(bench.SentOf(), 0));
  attacks.back().values()[7] = 6e4f;  // one element alone
  attacks.push_back(Filled(bench.SentOf(), 0));
  for (float& x : attacks.back().tensor(*attacks.back().layout().Find("head.bias"))) x = 1e4f;  // the head alone
  attacks.push_back(Random(bench.SentOf(), 5, 1e3));
  for (const Adapter& attack : attacks) {
    std::vector<Client> with = others;
    with.emplace_back("hostile", uint64_t{1} << 32, attack.Clone());
    // m = 10. An fp32 mean of these sums is off by 1e-6 of it at most.
    const double moved = Distance(*bench.Round(with), without) * 10;
    EXPECT_LT(moved, 2 * (1 + 1e-5));
    EXPECT_GT(moved, 2 * (1 - 1e-3)) << "a long update is to count as much as the bound lets it";
    // Without the clip it moves the sum by its whole norm.
    EXPECT_GT(NormOf(attack.values()), 1e3);
  }
}

TEST_F(DpTest, Accumulate_EveryEncodingIsClippedAtTheServer) {
  const RuleBench bench = Bench();
  const Adapter without = *bench.Round({});
  for (const proto::EncodingConfig& encoding : conformance::Encodings()) {
    const EncodedUpdate update = *EncodedUpdate::Encode(Random(bench.SentOf(), 5, 1e3), encoding);
    const auto aggregator = bench.Fresh();
    ASSERT_EQ(aggregator->Accumulate({"hostile", 1, update}), absl::OkStatus());
    const double moved = Distance(*std::move(*aggregator).Finish(), without) * 10;
    EXPECT_LT(moved, 2 * (1 + 1e-5)) << encoding.values();
    EXPECT_GT(moved, 2 * (1 - 1e-3)) << encoding.values();
  }
}

TEST_F(DpTest, Accumulate_BoundedWeightsAreOneAtMost) {
  const RuleBench bench = Bench(Config(R"(, "weights": {"by": "bounded", "max_examples": 100})"));
  const Adapter without = *bench.Round({});
  for (const auto& [examples, weight] : {std::pair<uint64_t, double>{1, .01}, {50, .5}, {100, 1}, {1 << 30, 1}}) {
    const Adapter with = *bench.Round({{"a", examples, Filled(bench.SentOf(), 100)}});
    EXPECT_NEAR(Distance(with, without) * 10, 2 * weight, 2e-4 * weight) << examples;
  }
}

TEST_F(DpTest, Accumulate_ShortDeltasAreNotChanged) {
  const RuleBench bench = Bench(Config(), Values(4));
  const Adapter without = *bench.Round({});
  const Adapter with = *bench.Round({{"a", 1, Filled(Values(4), 0.5)}});
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(with.values()[i] - without.values()[i], 0.05, 1e-7);
}

TEST_F(DpTest, Finish_DenominatorIsFixedByTheJobNotByWhoAnswers) {
  RuleBench bench = Bench(Config(), Values(4));
  std::vector<Client> clients;
  const auto expect_sum_over = [&](double m) {
    clients.clear();
    const Adapter noise = *bench.Round({});
    for (int k = 0; k < 7; ++k) {
      clients.emplace_back(absl::StrCat(k), 1, Filled(Values(4), 0.5));
      const Adapter next = *bench.Round(clients);
      for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(next.values()[i] - noise.values()[i], 0.5 * (k + 1) / m, 1e-6);
    }
  };
  expect_sum_over(10);
  SamplePoisson(bench, 0.25);
  expect_sum_over(2.5);
  bench.job().mutable_selection()->set_rule("uniform");
  bench.job().mutable_selection()->set_clients(4);
  expect_sum_over(4);
}

// 100,000 values: their spread is known to 0.22 % (one sigma), and a multiplier that is off by 3 % must show.
constexpr double kSpreadTolerance = 0.011;

TEST_F(DpTest, Finish_NoiseHasTheScaleOfTheSensitivity) {
  const std::string noise = R"("noise_multiplier": 1.5)";
  RuleBench bench = Bench(Config("", "2", noise), Values(100'000));
  const auto spread = [&](const RuleBench& of, double m) { return SpreadOf(of.Round({})->values(), m); };
  EXPECT_NEAR(spread(bench, 10) / (1.5 * 2), 1, kSpreadTolerance);
  EXPECT_GT(std::abs(spread(Bench(Config("", "2", R"("noise_multiplier": 1.545)"), Values(100'000)), 10) / 3 - 1),
            kSpreadTolerance);
  // The weights do not change what one client can do to the mean.
  EXPECT_NEAR(
      spread(Bench(Config(R"(, "weights": {"by": "bounded", "max_examples": 100})", "2", noise), Values(100'000)), 10) /
          3,
      1, kSpreadTolerance);
  SamplePoisson(bench, 0.25);
  EXPECT_NEAR(spread(bench, 2.5) / 3, 1, kSpreadTolerance);
  // Where one client takes the place of another, two differ.
  SamplePoisson(bench, 0.25, /*min_updates=*/1);
  EXPECT_NEAR(spread(bench, 2.5) / 6, 1, kSpreadTolerance);
  bench.job().mutable_selection()->set_rule("uniform");
  bench.job().mutable_selection()->set_clients(4);
  EXPECT_NEAR(spread(bench, 4) / 6, 1, kSpreadTolerance);
}

TEST_F(DpTest, Finish_NoiseIsGaussianAndFreshInEveryRoundAndElement) {
  const RuleBench bench = Bench(Config("", "2", R"("noise_multiplier": 1)"), Values(100'000));
  const Adapter first = *bench.Round({});
  EXPECT_EQ(first.ContentHash(), bench.Round({}, 1, /*threads=*/4)->ContentHash());
  const Adapter second = *bench.Round({}, 2);
  double product = 0, within_one = 0, sum = 0, neighbours = 0;
  for (size_t i = 0; i < 100'000; ++i) {
    const double x = first.values()[i] * 5, y = second.values()[i] * 5;  // m / (z C)
    sum += x;
    product += x * y;
    within_one += std::abs(x) < 1 ? 1 : 0;
    // Elements of two chunks of noise.
    if (i >= 65'536) neighbours += x * first.values()[i - 65'536] * 5;
  }
  EXPECT_NEAR(sum / 1e5, 0, 5 / std::sqrt(1e5));
  EXPECT_NEAR(product / 1e5, 0, 5 / std::sqrt(1e5));
  EXPECT_NEAR(neighbours / 34'464, 0, 5 / std::sqrt(34'464));
  EXPECT_NEAR(within_one / 1e5, 0.682689, 5 * 0.0015);
}

TEST_F(DpTest, Finish_SecureNoiseIsNeverTheSameAndHasTheScale) {
  RuleBench bench("dp",
                  R"({"clip_norm": 2, "noise_multiplier": 1.5, "epsilon_budget": 100, "delta": 1e-5, "clients": 10})",
                  Values(100'000));
  for (float& x : bench.start().values()) x = 0;
  const Adapter first = *bench.Round({}), second = *bench.Round({});
  EXPECT_NE(first.ContentHash(), second.ContentHash());
  EXPECT_NEAR(SpreadOf(first.values(), 10) / 3, 1, 2 * kSpreadTolerance);  // ten sigma: never red by chance
}

TEST_F(DpTest, Finish_EmptyCohortReleasesNoise) {
  const RuleBench bench = Bench(Config("", "2", R"("noise_multiplier": 1)"));
  const auto next = bench.Round({});
  ASSERT_TRUE(next.ok()) << next.status();
  for (const float x : next->values()) EXPECT_NE(x, 0);
}

TEST_F(DpTest, Finish_TheRuleInsideMakesTheNextStateOfTheMean) {
  const RuleBench plain = Bench();
  RuleBench optimizer =
      Bench(Config("", "2", R"("noise_multiplier": 0.01)",
                   R"({"name": "fedopt", "config": {"optimizer": "momentum", "learning_rate": 0.5}})"));
  ASSERT_EQ(optimizer.CheckJob(), absl::OkStatus());
  optimizer.start() = *optimizer.rule().InitialState(optimizer.job(), std::move(optimizer.start()));
  const std::vector<Client> clients = {plain.Draw(1), plain.Draw(2)};
  const Adapter mean = *plain.Round(clients), half = *optimizer.Round(clients);
  for (size_t i = 0; i < mean.values().size(); ++i) EXPECT_EQ(half.values()[i], mean.values()[i] / 2);
  EXPECT_GT(half.layout().tensors().size(), mean.layout().tensors().size());
}

TEST_F(DpTest, FillPlan_AsksWhatTheRuleInsideAsksAndClips) {
  const proto::Plan plan = Bench(Config("", "2", R"("noise_multiplier": 1)", R"({"name": "ffa_lora"})")).PlanOf();
  EXPECT_EQ(plan.clip_update_norm(), 2);
  EXPECT_EQ(plan.max_examples(), 1u);
  EXPECT_THAT(plan.roles_sent(), ::testing::ElementsAre("lora_b", "head"));
  EXPECT_EQ(Bench(Config(R"(, "weights": {"by": "bounded", "max_examples": 100})")).PlanOf().max_examples(), 100u);
}

TEST_F(DpTest, Validate_WhatIsNotFiniteOrFarTooLargeIsRefused) {
  const RuleBench bench = Bench();
  const auto aggregator = bench.Fresh();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e38f}) {
    const Adapter delta = Filled(bench.SentOf(), bad);
    EXPECT_EQ(aggregator->Accumulate({"a", 1, EncodedUpdate::View(delta)}).code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(aggregator->count(), 0);
}

// Of q, noise multiplier, rounds, delta: as in privacy/accountant/rdp_test.cc, from Google's dp_accounting 0.6.0.
TEST_F(DpTest, Spent_IsTheGoldenTable) {
  constexpr struct {
    double q, noise_multiplier;
    int64_t rounds;
    double delta, epsilon;
  } kGolden[] = {
      {1, 1, 1, 1e-5, 4.7285},      {1, 2, 1, 1e-5, 2.1657},        {1, 5, 100, 1e-5, 10.7255},
      {.01, 1, 1000, 1e-5, 2.1014}, {.01, .8, 1000, 1e-5, 3.6956},  {.1, 1, 100, 1e-5, 7.9039},
      {.1, 2, 200, 1e-5, 3.6797},   {.02, 1.1, 2000, 1e-6, 5.7183}, {256.0 / 60000, 1.1, 14062, 1e-5, 2.5966}};
  for (const auto& golden : kGolden) {
    RuleBench bench("dp",
                    absl::StrCat(R"({"clip_norm": 1, "epsilon_budget": 50, "clients": 1000, "noise_multiplier": )",
                                 golden.noise_multiplier, R"(, "delta": )", golden.delta, "}"));
    if (golden.q < 1) SamplePoisson(bench, golden.q);
    ASSERT_EQ(bench.CheckJob(), absl::OkStatus());
    const PrivacySpent spent = *bench.rule().Spent(bench.job(), golden.rounds);
    EXPECT_NEAR(spent.epsilon, golden.epsilon, 1e-3 * golden.epsilon);
    EXPECT_GT(
        std::abs(bench.rule().Spent(bench.job(), golden.rounds + 1 + golden.rounds / 50)->epsilon - golden.epsilon),
        1e-3 * golden.epsilon);
    EXPECT_EQ(std::tuple(spent.noise_multiplier, spent.sampling_rate, spent.delta, spent.epsilon_budget),
              std::tuple(golden.noise_multiplier, golden.q, golden.delta, 50.0));
  }
}

TEST_F(DpTest, Spent_OnlyPoissonWithoutAMinimumAmplifies) {
  RuleBench bench("dp",
                  R"({"clip_norm": 1, "epsilon_budget": 50, "clients": 1000, "noise_multiplier": 1, "delta": 1e-5})");
  const double whole = bench.rule().Spent(bench.job(), 1)->epsilon;
  EXPECT_NEAR(whole, 4.7285, 5e-3);
  bench.job().mutable_selection()->set_rule("uniform");
  bench.job().mutable_selection()->set_clients(10);
  EXPECT_EQ(bench.rule().Spent(bench.job(), 1)->epsilon, whole);
  SamplePoisson(bench, .01, /*min_updates=*/1);
  EXPECT_EQ(bench.rule().Spent(bench.job(), 1)->epsilon, whole);
  bench.job().mutable_round()->clear_min_updates();  // 1 by default
  EXPECT_EQ(bench.rule().Spent(bench.job(), 1)->epsilon, whole);
  EXPECT_EQ(bench.rule().Spent(bench.job(), 1)->sampling_rate, 1);
  SamplePoisson(bench, .01);
  EXPECT_LT(bench.rule().Spent(bench.job(), 1)->epsilon, whole / 4);
}

TEST_F(DpTest, Spent_NothingBeforeTheFirstRoundAndMoreWithEach) {
  RuleBench bench = Bench();
  EXPECT_EQ(bench.rule().Spent(bench.job(), 0)->epsilon, 0);
  EXPECT_LT(bench.rule().Spent(bench.job(), 1)->epsilon, bench.rule().Spent(bench.job(), 2)->epsilon);
}

TEST_F(DpTest, Spent_TargetIsMetByAllRoundsAndIsTheBudget) {
  RuleBench bench("dp", R"({"clip_norm": 1, "clients": 1000, "target_epsilon": 3, "delta": 1e-5})");
  SamplePoisson(bench, .1);
  bench.job().mutable_stop()->set_rounds(100);
  ASSERT_EQ(bench.CheckJob(), absl::OkStatus());
  const PrivacySpent spent = *bench.rule().Spent(bench.job(), 100);
  EXPECT_NEAR(spent.noise_multiplier, 1.7961, 2e-3);  // of the same table
  EXPECT_LE(spent.epsilon, 3);
  EXPECT_GT(bench.rule().Spent(bench.job(), 101)->epsilon, 3);
  EXPECT_EQ(spent.epsilon_budget, 3);
}

TEST_F(DpTest, CheckJob_RefusesByKey) {
  const auto refusal = [](
                           const std::string& config,
                           const std::function<void(RuleBench&)>& change = [](RuleBench&) {}) {
    RuleBench bench("dp", config);
    change(bench);
    const absl::Status status = bench.CheckJob();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << config;
    return std::string(status.message());
  };
  const std::string rest = R"("clip_norm": 1, "delta": 1e-5, "clients": 10)";
  EXPECT_THAT(refusal("{}"), HasSubstr("aggregator.config.clip_norm"));
  EXPECT_THAT(refusal(R"({"clip_norm": 0, "noise_multiplier": 1, "delta": 1e-5, "clients": 10})"),
              HasSubstr("aggregator.config.clip_norm"));
  EXPECT_THAT(refusal(R"({"clip_norm": 1, "noise_multiplier": 1, "delta": 1e-5})"),
              HasSubstr("aggregator.config.clients"));
  EXPECT_THAT(refusal(absl::StrCat("{", rest, "}")), HasSubstr("neither it nor target_epsilon, expected exactly one"));
  EXPECT_THAT(refusal(absl::StrCat("{", rest, R"(, "noise_multiplier": 1, "target_epsilon": 1})")),
              HasSubstr("both it and target_epsilon"));
  EXPECT_THAT(refusal(absl::StrCat("{", rest, R"(, "noise_multiplier": 1})")), HasSubstr("epsilon_budget: found none"));
  EXPECT_THAT(refusal(absl::StrCat("{", rest, R"(, "target_epsilon": 1})")), HasSubstr("stop.rounds: found none"));
  EXPECT_THAT(refusal(R"({"clip_norm": 1, "noise_multiplier": 1, "epsilon_budget": 9, "delta": 0.1, "clients": 10})"),
              HasSubstr("delta: found 0.1 with clients = 10, expected less than 0.1"));
  EXPECT_THAT(refusal(absl::StrCat("{", rest, R"(, "noise_multiplier": 1, "epsilon_budget": 4.7})")),
              HasSubstr("which the first round passes: it spends 4.728"));
  EXPECT_EQ(RuleBench("dp", absl::StrCat("{", rest, R"(, "noise_multiplier": 1, "epsilon_budget": 4.8})")).CheckJob(),
            absl::OkStatus());
  const std::string good = absl::StrCat("{", rest, R"(, "noise_multiplier": 1, "epsilon_budget": 9})");
  EXPECT_THAT(refusal(good, [](RuleBench& bench) { bench.job().mutable_selection()->set_rule("poisson"); }),
              HasSubstr("selection.rate"));
  EXPECT_THAT(refusal(good, [](RuleBench& bench) { bench.job().mutable_selection()->set_rule("uniform"); }),
              HasSubstr("selection.clients"));
  EXPECT_THAT(
      refusal(R"({"clip_norm": 1e6, "noise_multiplier": 1e6, "epsilon_budget": 9, "delta": 1e-5, "clients": 10})"),
      HasSubstr("expected at most 2^39"));
  EXPECT_THAT(
      refusal(R"({"clip_norm": 1, "noise_multiplier": 1, "epsilon_budget": 9, "delta": 1e-12, "clients": 10000000,
                          "weights": {"by": "bounded", "max_examples": 100000}})"),
      HasSubstr("weights.max_examples: found 100000, expected at most 27487"));
}

TEST_F(DpTest, CheckJob_RuleInsideMustBePostProcessingOfTheMean) {
  const auto check = [](const std::string& rule) {
    return Bench(Config("", "2", R"("noise_multiplier": 1)", rule)).CheckJob();
  };
  for (const char* good : {"fedavg", "ffa_lora", "fedsvd", "fedopt"}) {
    EXPECT_EQ(check(absl::StrCat(R"({"name": ")", good, R"("})")), absl::OkStatus()) << good;
  }
  const auto refusal = [&](const std::string& name) {
    return std::string(check(absl::StrCat(R"({"name": ")", name, R"("})")).message());
  };
  for (const auto& [name, why] :
       {std::pair<const char*, const char*>{"test_selects", "selects or sorts single updates"},
        {"test_changes_base", "changes the base of the clients"},
        {"test_products", "needs the products of each client's factors"},
        {"scaffold", "not post-processing of a mean"},
        {"dp", "not post-processing of a mean"}}) {
    EXPECT_THAT(refusal(name), HasSubstr(why));
    EXPECT_THAT(refusal(name), HasSubstr("use one of fed"));
    EXPECT_THAT(refusal(name), Not(HasSubstr(absl::StrCat("use one of ", name))));
  }
  EXPECT_THAT(refusal("nothing"), HasSubstr("aggregator.config.rule.name"));
  // Also further inside.
  EXPECT_THAT(check(R"({"name": "fedopt", "config": {"rule": {"name": "scaffold"}}})").message(),
              HasSubstr("found scaffold inside dp"));
  EXPECT_THAT(check(R"({"name": "fedavg", "config": {"weights": {"by": "uniform"}}})").message(),
              HasSubstr("use aggregator.config.weights"));
}

TEST_F(DpTest, CheckJob_EveryRegisteredRuleIsTakenOrRefusedAsItsFactsSay) {
  for (const std::string& name : Registry::Global().Names()) {
    const Facts facts = (*Registry::Global().Find(name))->facts();
    const absl::Status status =
        Bench(Config("", "2", R"("noise_multiplier": 1)", absl::StrCat(R"({"name": ")", name, R"("})"))).CheckJob();
    const bool refused_as_unfit = status.message().find("inside dp, which can't be") != std::string::npos;
    EXPECT_EQ(refused_as_unfit, !(facts.works_under_central_dp && facts.finishes_from_mean)) << name << status;
    EXPECT_TRUE(refused_as_unfit || !(facts.needs_single_updates || facts.needs_products || facts.changes_base))
        << name;
  }
}

TEST_F(DpTest, Facts_NoWrapperStandsAroundIt) {
  const Facts facts = Bench().rule().facts();
  EXPECT_TRUE(facts.linear && facts.finishes_empty && facts.wraps_rule);
  EXPECT_FALSE(facts.finishes_from_mean || facts.works_under_central_dp || facts.works_under_secure_aggregation);
  const std::string inside = absl::StrCat(R"({"rule": {"name": "dp", "config": )", Config(), "}}");
  EXPECT_THAT(RuleBench("fedopt", inside).CheckJob().message(), HasSubstr("found dp inside fedopt"));
}

TEST_F(DpTest, MemoryBytes_DoesNotGrowWithTheCohort) {
  RuleBench bench = Bench();
  EXPECT_EQ(bench.rule().MemoryBytes(bench.job(), *bench.layout(), 1),
            bench.rule().MemoryBytes(bench.job(), *bench.layout(), 1'000'000));
}

}  // namespace
}  // namespace weft::aggregators
