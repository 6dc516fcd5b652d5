#include "aggregators/core/robust.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "aggregators/core/linear.h"
#include "aggregators/core/state.h"
#include "aggregators/core/testing/rule_bench.h"

namespace weft::aggregators {
namespace {

using ::testing::ElementsAre;
using testing::Filled;
using ::testing::HasSubstr;
using testing::RuleBench;

// An inner rule that trains and sends B alone, extends the state and says what privacy it spends.
class SendsB : public LinearAggregator {
 public:
  using LinearAggregator::LinearAggregator;

 private:
  absl::StatusOr<Adapter> Next(const Adapter& mean, int64_t updates) override {
    Adapter next = Plus(state(), mean);
    next.tensor(*next.layout().Find("server.count"))[0] += static_cast<float>(updates);
    return next;
  }
};

class SendsBRule : public Rule {
 public:
  std::string_view name() const override { return "sends_b"; }
  Facts facts() const override { return {.linear = true, .finishes_from_mean = true}; }
  absl::Status CheckJob(const proto::JobConfig& job, const Layout&) const override {
    if (!job.aggregator().config().fields().contains("bad")) return absl::OkStatus();
    return absl::InvalidArgumentError("bad");
  }
  absl::StatusOr<Adapter> InitialState(const proto::JobConfig&, Adapter initial) const override {
    return Extend(initial, {{.name = "server.count", .role = "server.count", .shape = {1}}});
  }
  std::optional<PrivacySpent> Spent(const proto::JobConfig&, int64_t rounds) const override {
    return PrivacySpent{.epsilon = static_cast<double>(rounds)};
  }
  int64_t MemoryBytes(const proto::JobConfig&, const Layout&, int64_t updates) const override { return 1000 * updates; }
  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig&,
                                                     const CreateOptions& options) const override {
    auto terms = UpdateTerms::Create(
        options, {.rule = "sends_b", .weights = {}, .roles_trained = {"lora_b"}, .roles_sent = {"lora_b"}});
    if (!terms.ok()) return terms.status();
    return std::make_unique<SendsB>(options, *std::move(terms));
  }
};
WEFT_REGISTER_RULE(SendsBRule);

// A centre that is the first client's delta.
class First : public RobustAggregator {
 public:
  using RobustAggregator::RobustAggregator;

 private:
  absl::StatusOr<Adapter> Centre(std::span<const Adapter> deltas) override { return deltas[0].Clone(); }
};

class FirstRule : public RobustRule {
 public:
  std::string_view name() const override { return "first"; }

 private:
  absl::StatusOr<RobustConfig> Read(const proto::JobConfig& job) const override {
    RobustConfig config;
    config.text = "first";
    const auto& fields = job.aggregator().config().fields();
    config.rule.set_name(fields.at("name").string_value());
    *config.rule.mutable_config() = fields.at("config").struct_value();
    config.splits_pairs = fields.contains("splits");
    return config;
  }
  absl::StatusOr<std::unique_ptr<Aggregator>> Make(const proto::JobConfig&, const CreateOptions& create,
                                                   RobustParts parts) const override {
    return std::make_unique<First>(create, std::move(parts));
  }
};
WEFT_REGISTER_RULE(FirstRule);

RuleBench Around(const std::string& inner, const std::string& config = "{}", const std::string& more = "") {
  RuleBench bench("first", R"({"name": ")" + inner + R"(", "config": )" + config + more + "}");
  if (bench.CheckJob().ok()) bench.start() = *bench.rule().InitialState(bench.job(), bench.start().Clone());
  return bench;
}

TEST(RobustRuleTest, Finish_TheRuleInsideMakesTheNextStateOfTheCentre) {
  const RuleBench bench = Around("sends_b");
  const auto layout = bench.SentOf();
  ASSERT_EQ(layout->tensors().size(), 2u);
  auto next = bench.Round({{"b", 1, Filled(layout, 7)}, {"a", 1, Filled(layout, 2)}});
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->tensor(*next->layout().Find("server.count"))[0],
            bench.start().values()[bench.start().values().size() - 1] + 2);
  const TensorSpec& b = *next->layout().Find("m.q.lora_B.weight");
  EXPECT_EQ(next->tensor(b)[0], bench.start().tensor(b)[0] + 2);
}

TEST(RobustRuleTest, FillPlan_AsksForWhatTheRuleInsideAsksForAndBelievesNoCounts) {
  const proto::Plan plan = Around("sends_b").PlanOf();
  EXPECT_THAT(plan.roles_sent(), ElementsAre("lora_b"));
  EXPECT_THAT(plan.roles_trained(), ElementsAre("lora_b"));
  EXPECT_EQ(plan.max_examples(), 1u);
}

TEST(RobustRuleTest, Spent_IsThatOfTheRuleInside) {
  RuleBench bench = Around("sends_b");
  EXPECT_EQ(bench.rule().Spent(bench.job(), 3)->epsilon, 3);
  bench = Around("fedavg");
  EXPECT_FALSE(bench.rule().Spent(bench.job(), 3).has_value());
}

TEST(RobustRuleTest, MemoryBytes_GrowsWithTheCohortAndCountsTheRuleInside) {
  RuleBench bench = Around("sends_b");
  const Layout& layout = *bench.layout();
  const int64_t one = bench.rule().MemoryBytes(bench.job(), layout, 1);
  EXPECT_EQ(bench.rule().MemoryBytes(bench.job(), layout, 11) - one, 10 * 2 * layout.size_bytes());
  EXPECT_EQ(one, 3 * layout.size_bytes() + 1000);
}

TEST(RobustRuleTest, CheckJob_WhatCannotStandInsideIsRefused) {
  EXPECT_EQ(Around("fedavg").CheckJob(), absl::OkStatus());
  EXPECT_EQ(Around("sends_b").CheckJob(), absl::OkStatus());
  EXPECT_THAT(Around("nobody").CheckJob().message(), HasSubstr("nobody"));
  // Wrappers that need single updates have no mean to go on from.
  EXPECT_THAT(Around("first").CheckJob().message(), HasSubstr("needs single updates"));
  EXPECT_THAT(Around("sends_b", R"({"bad": 1})").CheckJob().message(), HasSubstr("bad"));
}

TEST(RobustRuleTest, CheckJob_WeightsThatWouldNotCountAreRefused) {
  for (const char* config : {R"({"weights": {"by": "uniform"}})", R"({"rule": {"config": {"weights": {}}}})"}) {
    EXPECT_EQ(Around("fedavg", config).CheckJob().code(), absl::StatusCode::kInvalidArgument) << config;
    EXPECT_THAT(Around("fedavg", config).CheckJob().message(), HasSubstr("leave them out")) << config;
  }
}

TEST(RobustRuleTest, CheckJob_FactorsSentTogetherAreRefusedWhereTheyWouldBeSplit) {
  const absl::Status refused = Around("fedavg", "{}", R"(, "splits": true)").CheckJob();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.message(), HasSubstr("use ffa_lora or rolora inside"));
  EXPECT_THAT(refused.message(), HasSubstr("allow_unpaired_factors"));
  EXPECT_EQ(Around("sends_b", "{}", R"(, "splits": true)").CheckJob(), absl::OkStatus());
  RuleBench no_factors("first", R"({"name": "fedavg", "config": {}, "splits": true})",
                       *Layout::Create({{.name = "scale", .role = "ssf_scale", .shape = {4}}}));
  EXPECT_EQ(no_factors.CheckJob(), absl::OkStatus());
}

TEST(RobustRuleTest, MergeWith_AnotherRuleInsideIsRefused) {
  const RuleBench one = Around("fedavg"), same = Around("fedavg"), other = Around("fedavg", R"({"x": 1})");
  const auto part = one.Fresh();
  EXPECT_EQ(part->MergeWith(std::move(*same.Fresh())), absl::OkStatus());
  Adapter start = one.start().Clone();
  const absl::StatusOr<std::unique_ptr<Aggregator>> foreign =
      Around("sends_b").rule().Create(Around("sends_b").job(), {.global = &start, .round = 1});
  ASSERT_TRUE(foreign.ok()) << foreign.status();
  EXPECT_EQ(part->MergeWith(std::move(**foreign)).code(), absl::StatusCode::kInvalidArgument);
}

TEST(MedianOfTest, MedianOf_MiddleOrMeanOfTheTwoInTheMiddle) {
  const auto median = [](std::vector<float> values) { return MedianOf(values); };
  EXPECT_EQ(median({4}), 4);
  EXPECT_EQ(median({1, 9}), 5);
  EXPECT_EQ(median({9, 1, 2}), 2);
  EXPECT_EQ(median({8, 1, 4, 2}), 3);
  EXPECT_EQ(median({3, 3, 3, 1e30f}), 3);
  EXPECT_EQ(median({3e38f, 3e38f}), 3e38f);  // their sum is no float
}

TEST(CoordinateWiseTest, CoordinateWise_SameBitsOnAnyNumberOfThreads) {
  const auto layout = *Layout::Create({{.name = "x", .role = "head", .shape = {1000}}});
  std::vector<Adapter> deltas;
  for (uint64_t k = 0; k < 6; ++k) deltas.push_back(testing::Random(layout, k));
  const std::string expected = CoordinateWise(deltas, 1, MedianOf).ContentHash();
  for (const int threads : {2, 3, 16}) EXPECT_EQ(CoordinateWise(deltas, threads, MedianOf).ContentHash(), expected);
}

}  // namespace
}  // namespace weft::aggregators
