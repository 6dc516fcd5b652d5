#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/conformance.h"
#include "aggregators/core/testing/rule_bench.h"
#include "aggregators/core/testing/values.h"

namespace weft::aggregators::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(LoraA2Test, Conformance_AllLawsHold) {
  const RuleBench bench("lora_a2", R"({"budget": 1})"), other("lora_a2", R"({"budget": 2})");
  conformance::Subject subject = bench.Subject();
  subject.other = other.Subject().job;
  conformance::ExpectLawsHold(subject);
}

TEST(LoraA2Test, FillPlan_AlternatesWithinTheBudgetAndBLearnsFaster) {
  const RuleBench bench("lora_a2", R"({"budget": 4})");
  const proto::Plan odd = bench.PlanOf(1), even = bench.PlanOf(2);
  EXPECT_THAT(odd.roles_trained(), ElementsAre("lora_b", "head"));
  EXPECT_THAT(odd.roles_sent(), ElementsAre("lora_b", "head"));
  EXPECT_EQ(odd.keep_components(), 4);
  EXPECT_EQ(odd.learning_rate_scale().at("lora_b"), 5);
  EXPECT_THAT(even.roles_trained(), ElementsAre("lora_a", "head"));
  EXPECT_THAT(even.roles_sent(), ElementsAre("lora_a", "head"));
  EXPECT_EQ(even.keep_components(), 4);
  EXPECT_TRUE(even.learning_rate_scale().empty());
  const RuleBench slow("lora_a2", R"({"budget": 4, "rate_ratio": 2})");
  EXPECT_EQ(slow.PlanOf(1).learning_rate_scale().at("lora_b"), 2);
}

// A component that a client did not send counts as no change: its mean is over all clients.
TEST(LoraA2Test, Finish_WhatWasNotSentCountsAsNoChange) {
  const auto layout = *Layout::Create({{.name = "m.lora_A.weight", .role = "lora_a", .shape = {2, 2}},
                                       {.name = "m.lora_B.weight", .role = "lora_b", .shape = {2, 2}}});
  RuleBench bench("lora_a2", R"({"budget": 1})", layout);
  bench.start() = With(layout, {{"m.lora_A.weight", {1, 2, 3, 4}}, {"m.lora_B.weight", {1, 1, 1, 1}}});
  // "a" sent column 0 of B, "b" column 1.
  bench.start() = *bench.Round({{"a", 1, With(bench.SentOf(), {{"m.lora_B.weight", {4, 0, 8, 0}}})},
                                {"b", 3, With(bench.SentOf(), {{"m.lora_B.weight", {0, 4, 0, -4}}})}});
  EXPECT_THAT(ValuesOf(bench.start(), "m.lora_B.weight"), ElementsAre(2, 4, 3, -2));
  EXPECT_THAT(ValuesOf(bench.start(), "m.lora_A.weight"), ElementsAre(1, 2, 3, 4));
  // Row 1 of A by one client of two.
  const auto sent = bench.SentOf(0, 2);
  bench.start() = *bench.Round({{"a", 1, With(sent, {{"m.lora_A.weight", {0, 0, 2, 6}}})}, {"b", 1, Adapter(sent)}}, 2);
  EXPECT_THAT(ValuesOf(bench.start(), "m.lora_A.weight"), ElementsAre(1, 2, 4, 7));
  EXPECT_THAT(ValuesOf(bench.start(), "m.lora_B.weight"), ElementsAre(2, 4, 3, -2));
}

TEST(LoraA2Test, CheckJob_BudgetMustFitTheComponents) {
  RuleBench bench("lora_a2", R"({"budget": 6})");  // two modules of rank 3
  EXPECT_EQ(bench.CheckJob(), absl::OkStatus());
  bench.Configure(R"({"budget": 7})");
  EXPECT_EQ(bench.CheckJob().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("expected at most the 6 components of 2 modules"));
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("use aggregator rolora"));
  for (const char* config : {"{}", R"({"budget": 0})"}) {
    bench.Configure(config);
    EXPECT_THAT(bench.CheckJob().message(), HasSubstr("aggregator.config.budget")) << config;
  }
  bench.Configure(R"({"budget": 1, "rate_ratio": 0})");
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("aggregator.config.rate_ratio"));
  bench.Configure(R"({"budget": 1})");
  bench.job().mutable_selection()->set_clients(1'000'000);
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("aggregator.config.weights.max_examples"));
}

TEST(LoraA2Test, CheckJob_RefusesFormsWithoutFactors) {
  const RuleBench bench("lora_a2", R"({"budget": 1})", NoFactors());
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("use adapter.form lora, or aggregator fedavg"));
}

TEST(LoraA2Test, Facts_WhichComponentsTravelIsSeen) {
  const Facts facts = RuleBench("lora_a2").rule().facts();
  EXPECT_TRUE(facts.linear && facts.works_under_central_dp && facts.finishes_from_mean && facts.returns_single_update);
  EXPECT_FALSE(facts.works_under_secure_aggregation || facts.needs_single_updates || facts.changes_base);
}

}  // namespace
}  // namespace weft::aggregators::testing
