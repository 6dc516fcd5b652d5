#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/conformance.h"
#include "aggregators/core/testing/rule_bench.h"
#include "aggregators/core/testing/values.h"

namespace weft::aggregators::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(FedSaLoraTest, Conformance_AllLawsHold) {
  const RuleBench local("fedsa_lora"), shared("fedsa_lora", R"({"head": "shared"})");
  conformance::Subject subject = local.Subject();
  subject.other = RuleBench("fedsa_lora", R"({"weights": {"max_examples": 9}})").Subject().job;
  conformance::ExpectLawsHold(subject);
  conformance::ExpectLawsHold(shared.Subject());
}

TEST(FedSaLoraTest, FillPlan_BothTrainedAOnlySentTheRestLocal) {
  const proto::Plan plan = RuleBench("fedsa_lora").PlanOf();
  EXPECT_THAT(plan.roles_trained(), ElementsAre("lora_a", "lora_b", "head"));
  EXPECT_THAT(plan.roles_sent(), ElementsAre("lora_a"));
  EXPECT_THAT(plan.roles_local(), ElementsAre("lora_b", "head"));
  const proto::Plan shared = RuleBench("fedsa_lora", R"({"head": "shared"})").PlanOf();
  EXPECT_THAT(shared.roles_trained(), ElementsAre("lora_a", "lora_b", "head"));
  EXPECT_THAT(shared.roles_sent(), ElementsAre("lora_a", "head"));
  EXPECT_THAT(shared.roles_local(), ElementsAre("lora_b"));
}

TEST(FedSaLoraTest, Finish_AveragesAAndKeepsWhatNewcomersStartFrom) {
  RuleBench bench("fedsa_lora", "{}", OneModule());
  bench.start() = With(bench.layout(), {{"m.lora_A.weight", {3, -1}}, {"head.bias", {6}}});
  const auto next = bench.Round({{"a", 1, With(bench.SentOf(), {{"m.lora_A.weight", {4, 0}}})},
                                 {"b", 3, With(bench.SentOf(), {{"m.lora_A.weight", {0, 8}}})}});
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_THAT(ValuesOf(*next, "m.lora_A.weight"), ElementsAre(4, 5));
  EXPECT_THAT(ValuesOf(*next, "m.lora_B.weight"), ElementsAre(0, 0, 0));
  EXPECT_THAT(ValuesOf(*next, "head.bias"), ElementsAre(6));
}

TEST(FedSaLoraTest, CheckJob_RefusesFormsWithoutFactorsAndBadConfig) {
  RuleBench bench("fedsa_lora", "{}", NoFactors());
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("use adapter.form lora, or aggregator fedavg"));
  RuleBench lora("fedsa_lora");
  EXPECT_EQ(lora.CheckJob(), absl::OkStatus());
  lora.Configure(R"({"head": "both"})");
  EXPECT_THAT(lora.CheckJob().message(), HasSubstr("aggregator.config.head"));
  lora.Configure("{}");
  lora.job().mutable_selection()->set_clients(1'000'000);
  EXPECT_THAT(lora.CheckJob().message(), HasSubstr("aggregator.config.weights.max_examples"));
}

TEST(FedSaLoraTest, Facts_KeepsClientState) {
  const Facts facts = RuleBench("fedsa_lora").rule().facts();
  EXPECT_TRUE(facts.linear && facts.works_under_secure_aggregation && facts.works_under_central_dp);
  EXPECT_TRUE(facts.finishes_from_mean && facts.returns_single_update && facts.keeps_client_state);
  EXPECT_FALSE(facts.needs_single_updates || facts.needs_products || facts.changes_base);
}

}  // namespace
}  // namespace weft::aggregators::testing
