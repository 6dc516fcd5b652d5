#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/conformance.h"
#include "aggregators/core/testing/rule_bench.h"
#include "aggregators/core/testing/values.h"

namespace weft::aggregators::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(FedSbTest, Conformance_AllLawsHold) {
  const RuleBench bench("fed_sb", "{}", FixedFactors()), other("fed_sb", R"({"weights": {"max_examples": 9}})");
  conformance::Subject subject = bench.Subject();
  subject.layout = FixedFactors();
  subject.other = other.Subject().job;
  conformance::ExpectLawsHold(subject);
}

TEST(FedSbTest, FillPlan_ROnlyAndTheHead) {
  const RuleBench bench("fed_sb", "{}", FixedFactors());
  EXPECT_THAT(bench.PlanOf().roles_trained(), ElementsAre("lora_r", "head"));
  EXPECT_THAT(bench.PlanOf().roles_sent(), ElementsAre("lora_r", "head"));
  EXPECT_EQ(bench.SentOf()->num_elements(), (2 * 2) + 1);
}

TEST(FedSbTest, Finish_AveragesRAndKeepsTheFactors) {
  RuleBench bench("fed_sb", "{}", FixedFactors());
  const Adapter before = bench.start().Clone();
  const auto next =
      bench.Round({{"a", 1, With(bench.SentOf(), {{"m.lora_sb_R.weight", {4, 0, 0, 8}}, {"head.bias", {1}}})},
                   {"b", 3, With(bench.SentOf(), {{"m.lora_sb_R.weight", {0, 4, 0, 8}}, {"head.bias", {1}}})}});
  ASSERT_TRUE(next.ok()) << next.status();
  const std::vector<float> r = ValuesOf(before, "m.lora_sb_R.weight");
  EXPECT_THAT(ValuesOf(*next, "m.lora_sb_R.weight"), ElementsAre(r[0] + 1, r[1] + 3, r[2], r[3] + 8));
  for (const char* name : {"m.lora_sb_A.weight", "m.lora_sb_B.weight"}) {
    EXPECT_EQ(ValuesOf(*next, name), ValuesOf(before, name));
  }
}

TEST(FedSbTest, Finish_IsTheExactMeanOfProducts) {
  RuleBench bench("fed_sb", "{}", FixedFactors());
  const std::vector<Client> clients = {bench.Draw(1, 3), bench.Draw(2, 5), bench.Draw(3, 1)};
  const Adapter next = *bench.Round(clients);
  const Eigen::MatrixXd a = MatrixOf(next, "m.lora_sb_A.weight"), b = MatrixOf(next, "m.lora_sb_B.weight");
  const Eigen::MatrixXd r = MatrixOf(bench.start(), "m.lora_sb_R.weight");
  Eigen::MatrixXd mean = Eigen::MatrixXd::Zero(4, 3);
  for (const Client& client : clients) {
    mean += b * (r + MatrixOf(client.delta, "m.lora_sb_R.weight")) * a * (static_cast<double>(client.examples) / 9);
  }
  const Eigen::MatrixXd found = b * MatrixOf(next, "m.lora_sb_R.weight") * a;
  EXPECT_LT((found - mean).norm() / mean.norm(), 1e-6);  // measured 5e-8
  EXPECT_GT((1.0001 * found - mean).norm() / mean.norm(), 1e-6);
}

// Fixed factors are fixed under every rule.
TEST(FedSbTest, FillPlan_FedAvgOverTheFormIsTheSame) {
  const RuleBench bench("fedavg", "{}", FixedFactors());
  EXPECT_THAT(bench.PlanOf().roles_trained(), ElementsAre("lora_r", "head"));
}

TEST(FedSbTest, CheckJob_RefusesOtherFormsAndBadConfig) {
  RuleBench lora("fed_sb");
  EXPECT_EQ(lora.CheckJob().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(lora.CheckJob().message(), HasSubstr("found fed_sb with adapter.form lora"));
  EXPECT_THAT(lora.CheckJob().message(), HasSubstr("use adapter.form lora_sb, or aggregator ffa_lora"));
  RuleBench bench("fed_sb", "{}", FixedFactors());
  EXPECT_EQ(bench.CheckJob(), absl::OkStatus());
  bench.Configure(R"({"rank": 2})");
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("rank"));
  bench.Configure("{}");
  bench.job().mutable_selection()->set_clients(1'000'000);
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("aggregator.config.weights.max_examples"));
}

TEST(FedSbTest, Facts_LinearAndUnderDp) {
  const Facts facts = RuleBench("fed_sb").rule().facts();
  EXPECT_TRUE(facts.linear && facts.works_under_secure_aggregation && facts.works_under_central_dp);
  EXPECT_TRUE(facts.finishes_from_mean && facts.returns_single_update);
  EXPECT_FALSE(facts.needs_single_updates || facts.needs_products || facts.changes_base || facts.keeps_client_state);
}

}  // namespace
}  // namespace weft::aggregators::testing
