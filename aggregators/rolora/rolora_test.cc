#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/conformance.h"
#include "aggregators/core/testing/rule_bench.h"
#include "aggregators/core/testing/values.h"

namespace weft::aggregators::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(RoLoraTest, Conformance_AllLawsHold) {
  const RuleBench bench("rolora"), other("rolora", R"({"weights": {"by": "uniform"}})");
  conformance::Subject subject = bench.Subject();
  subject.other = other.Subject().job;
  conformance::ExpectLawsHold(subject);
}

// Round 1 must be B's: while B = 0 the gradient of A is 0.
TEST(RoLoraTest, FillPlan_BInOddRoundsAInEvenOnes) {
  const RuleBench bench("rolora");
  for (const int64_t round : {1, 3, 99}) {
    EXPECT_THAT(bench.PlanOf(round).roles_trained(), ElementsAre("lora_b", "head")) << round;
    EXPECT_THAT(bench.PlanOf(round).roles_sent(), ElementsAre("lora_b", "head")) << round;
  }
  for (const int64_t round : {2, 4, 100}) {
    EXPECT_THAT(bench.PlanOf(round).roles_trained(), ElementsAre("lora_a", "head")) << round;
    EXPECT_THAT(bench.PlanOf(round).roles_sent(), ElementsAre("lora_a", "head")) << round;
  }
}

TEST(RoLoraTest, Finish_MovesTheFactorInTurn) {
  RuleBench bench("rolora", "{}", OneModule());
  bench.start() = With(bench.layout(), {{"m.lora_A.weight", {3, -1}}, {"m.lora_B.weight", {1, 0, 2}}});
  bench.start() = *bench.Round({{"a", 1, With(bench.SentOf(), {{"m.lora_B.weight", {4, 0, 8}}})},
                                {"b", 3, With(bench.SentOf(), {{"m.lora_B.weight", {0, 4, 0}}})}});
  EXPECT_THAT(ValuesOf(bench.start(), "m.lora_A.weight"), ElementsAre(3, -1));
  EXPECT_THAT(ValuesOf(bench.start(), "m.lora_B.weight"), ElementsAre(2, 3, 4));
  const auto sent = bench.SentOf(0, 2);
  bench.start() = *bench.Round({{"a", 1, With(sent, {{"m.lora_A.weight", {1, 2}}, {"head.bias", {2}}})},
                                {"b", 1, With(sent, {{"m.lora_A.weight", {3, 2}}, {"head.bias", {4}}})}},
                               2);
  EXPECT_THAT(ValuesOf(bench.start(), "m.lora_A.weight"), ElementsAre(5, 1));
  EXPECT_THAT(ValuesOf(bench.start(), "m.lora_B.weight"), ElementsAre(2, 3, 4));
  EXPECT_THAT(ValuesOf(bench.start(), "head.bias"), ElementsAre(3));
}

// One factor is common, so the mean of products is the product of means, in both phases.
TEST(RoLoraTest, Finish_IsTheExactMeanOfProductsInBothPhases) {
  RuleBench bench("rolora");
  for (const int64_t round : {1, 2}) {
    std::vector<Client> clients;
    for (uint64_t k = 1; k <= 3; ++k) {
      clients.push_back({absl::StrCat("c", k), 2 * k - 1, Random(bench.SentOf(0, round), k)});  // 9 in all
    }
    const Adapter next = *bench.Round(clients, round);
    for (const std::string& module : Modules()) {
      const Eigen::MatrixXd a = A(bench.start(), module), b = B(bench.start(), module);
      Eigen::MatrixXd mean = Eigen::MatrixXd::Zero(b.rows(), a.cols());
      for (const Client& client : clients) {
        const Eigen::MatrixXd own_a = round == 1 ? a : Eigen::MatrixXd(a + A(client.delta, module));
        const Eigen::MatrixXd own_b = round == 2 ? b : Eigen::MatrixXd(b + B(client.delta, module));
        const Eigen::MatrixXd product = own_b * own_a;
        mean += product * (static_cast<double>(client.examples) / 9);
      }
      EXPECT_LT((Product(next, module) - mean).norm() / mean.norm(), 1e-6);  // measured 4e-8
      EXPECT_GT((1.0001 * Product(next, module) - mean).norm() / mean.norm(), 1e-6);
    }
  }
}

TEST(RoLoraTest, Accumulate_AnUpdateOfTheOtherPhaseIsRefused) {
  const RuleBench bench("rolora");
  const Adapter of_a = Filled(bench.SentOf(0, 2), 1);
  const absl::Status status = bench.Fresh(1)->Validate({"a", 1, EncodedUpdate::View(of_a)});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("layout"));
}

TEST(RoLoraTest, CheckJob_RefusesFormsWithoutFactorsAndBadConfig) {
  RuleBench bench("rolora", "{}", NoFactors());
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("use adapter.form lora, or aggregator fedavg"));
  RuleBench lora("rolora");
  EXPECT_EQ(lora.CheckJob(), absl::OkStatus());
  lora.Configure(R"({"phase": "a"})");
  EXPECT_THAT(lora.CheckJob().message(), HasSubstr("phase"));
  lora.Configure("{}");
  lora.job().mutable_selection()->set_clients(1'000'000);
  EXPECT_THAT(lora.CheckJob().message(), HasSubstr("aggregator.config.weights.max_examples"));
}

TEST(RoLoraTest, Facts_LinearAndUnderDp) {
  const Facts facts = RuleBench("rolora").rule().facts();
  EXPECT_TRUE(facts.linear && facts.works_under_secure_aggregation && facts.works_under_central_dp);
  EXPECT_TRUE(facts.finishes_from_mean && facts.returns_single_update);
  EXPECT_FALSE(facts.needs_single_updates || facts.needs_products || facts.changes_base || facts.keeps_client_state);
}

}  // namespace
}  // namespace weft::aggregators::testing
