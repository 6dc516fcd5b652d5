#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/conformance.h"
#include "aggregators/core/testing/rule_bench.h"
#include "aggregators/core/testing/values.h"

namespace weft::aggregators::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(FedProxTest, Conformance_AllLawsHold) {
  const RuleBench bench("fedprox"), other("fedprox", R"({"mu": 0.5})");
  conformance::Subject subject = bench.Subject();
  subject.other = other.Subject().job;
  conformance::ExpectLawsHold(subject);
}

TEST(FedProxTest, FillPlan_SetsTheProximalTermOverAllRoles) {
  EXPECT_EQ(RuleBench("fedprox").PlanOf().proximal_mu(), 0.01);
  const proto::Plan plan = RuleBench("fedprox", R"({"mu": 0.25})").PlanOf();
  EXPECT_EQ(plan.proximal_mu(), 0.25);
  EXPECT_THAT(plan.roles_trained(), ElementsAre("lora_a", "lora_b", "head"));
  EXPECT_THAT(plan.roles_sent(), ElementsAre("lora_a", "lora_b", "head"));
  EXPECT_EQ(plan.max_examples(), 10'000'000u);
}

TEST(FedProxTest, Finish_AddsTheMeanWeightedByExamples) {
  RuleBench bench("fedprox", "{}", NoFactors());
  bench.start() = With(bench.layout(), {{"m.ssf_scale", {1, 2, 3}}, {"head.bias", {5}}});
  // (1 * 4 + 3 * 8) / 4 = 7 on the scale, (1 * -2 + 3 * 2) / 4 = 1 on the head.
  const auto next = bench.Round({{"a", 1, With(bench.layout(), {{"m.ssf_scale", {4, 4, 4}}, {"head.bias", {-2}}})},
                                 {"b", 3, With(bench.layout(), {{"m.ssf_scale", {8, 8, 8}}, {"head.bias", {2}}})}});
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_THAT(ValuesOf(*next, "m.ssf_scale"), ElementsAre(8, 9, 10));
  EXPECT_THAT(ValuesOf(*next, "head.bias"), ElementsAre(6));
  EXPECT_THAT(ValuesOf(*next, "prompt_embeddings"), ElementsAre(0, 0, 0, 0));
}

TEST(FedProxTest, CheckJob_BadConfigIsRefusedByPath) {
  RuleBench bench("fedprox", "{}", NoFactors());
  EXPECT_EQ(bench.CheckJob(), absl::OkStatus());
  for (const char* config : {R"({"mu": 0})", R"({"mu": -1})", R"({"mu": 1001})", R"({"mu": "x"})"}) {
    bench.Configure(config);
    EXPECT_EQ(bench.CheckJob().code(), absl::StatusCode::kInvalidArgument) << config;
    EXPECT_THAT(bench.CheckJob().message(), HasSubstr("aggregator.config.mu")) << config;
  }
  bench.Configure("{}");
  bench.job().mutable_selection()->set_clients(1'000'000);
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("aggregator.config.weights.max_examples"));
}

TEST(FedProxTest, Facts_AsFedAvg) {
  const Facts facts = RuleBench("fedprox").rule().facts();
  EXPECT_TRUE(facts.linear && facts.works_under_secure_aggregation && facts.works_under_central_dp);
  EXPECT_TRUE(facts.finishes_from_mean && facts.returns_single_update);
  EXPECT_FALSE(facts.needs_single_updates || facts.changes_base || facts.keeps_client_state || facts.wraps_rule);
}

}  // namespace
}  // namespace weft::aggregators::testing
