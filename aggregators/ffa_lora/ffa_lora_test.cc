#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/conformance.h"
#include "aggregators/core/testing/rule_bench.h"
#include "aggregators/core/testing/values.h"

namespace weft::aggregators::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(FfaLoraTest, Conformance_AllLawsHold) {
  const RuleBench bench("ffa_lora"), other("ffa_lora", R"({"weights": {"max_examples": 9}})");
  conformance::Subject subject = bench.Subject();
  subject.other = other.Subject().job;
  conformance::ExpectLawsHold(subject);
}

TEST(FfaLoraTest, FillPlan_ANeitherTrainedNorSent) {
  const RuleBench bench("ffa_lora");
  for (const int64_t round : {1, 2}) {
    const proto::Plan plan = bench.PlanOf(round);
    EXPECT_THAT(plan.roles_trained(), ElementsAre("lora_b", "head"));
    EXPECT_THAT(plan.roles_sent(), ElementsAre("lora_b", "head"));
  }
  EXPECT_EQ(bench.SentOf()->num_elements(), (5 * 3) + (9 * 3) + 3);
}

TEST(FfaLoraTest, Finish_AveragesBAndKeepsA) {
  RuleBench bench("ffa_lora", "{}", OneModule());
  bench.start() = With(bench.layout(), {{"m.lora_A.weight", {3, -1}}, {"m.lora_B.weight", {1, 0, 2}}});
  const auto next = bench.Round({{"a", 1, With(bench.SentOf(), {{"m.lora_B.weight", {4, 0, 8}}, {"head.bias", {1}}})},
                                 {"b", 3, With(bench.SentOf(), {{"m.lora_B.weight", {0, 4, 0}}, {"head.bias", {5}}})}});
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_THAT(ValuesOf(*next, "m.lora_A.weight"), ElementsAre(3, -1));
  EXPECT_THAT(ValuesOf(*next, "m.lora_B.weight"), ElementsAre(2, 3, 4));
  EXPECT_THAT(ValuesOf(*next, "head.bias"), ElementsAre(4));
}

// With a common A the mean of products is the product of means: nothing is lost, for one client or several.
TEST(FfaLoraTest, Finish_IsTheExactMeanOfProducts) {
  RuleBench bench("ffa_lora");
  for (const size_t count : {1, 4}) {
    std::vector<Client> clients;
    for (size_t k = 0; k < count; ++k) clients.push_back(bench.Draw(k + 1, 1 + 5 * k));
    const Adapter next = *bench.Round(clients);
    double total = 0;
    for (const Client& client : clients) total += static_cast<double>(client.examples);
    for (const std::string& module : Modules()) {
      const Eigen::MatrixXd a = A(bench.start(), module);
      Eigen::MatrixXd mean = B(bench.start(), module) * a;
      for (const Client& client : clients) {
        mean += B(client.delta, module) * a * (static_cast<double>(client.examples) / total);
      }
      const double scale = mean.norm();
      EXPECT_LT((Product(next, module) - mean).norm() / scale, 1e-6);  // measured 4e-8: B is rounded to fp32
      EXPECT_GT((1.0001 * Product(next, module) - mean).norm() / scale, 1e-6);
    }
  }
}

TEST(FfaLoraTest, CheckJob_RefusesFormsWithoutFactors) {
  RuleBench bench("ffa_lora", "{}", NoFactors());
  bench.job().mutable_adapter()->set_form("ssf");
  EXPECT_EQ(bench.CheckJob().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("ffa_lora with adapter.form ssf"));
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("use adapter.form lora, or aggregator fedavg"));
}

TEST(FfaLoraTest, CheckJob_RefusesBadConfig) {
  RuleBench bench("ffa_lora");
  EXPECT_EQ(bench.CheckJob(), absl::OkStatus());
  bench.Configure(R"({"weights": {"max_examples": 0}})");
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("aggregator.config.weights.max_examples"));
  bench.Configure("{}");
  bench.job().mutable_selection()->set_clients(1'000'000);
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("aggregator.config.weights.max_examples"));
}

TEST(FfaLoraTest, Facts_LinearAndUnderDp) {
  const Facts facts = RuleBench("ffa_lora").rule().facts();
  EXPECT_TRUE(facts.linear && facts.works_under_secure_aggregation && facts.works_under_central_dp);
  EXPECT_TRUE(facts.finishes_from_mean && facts.returns_single_update);
  EXPECT_FALSE(facts.needs_single_updates || facts.needs_products || facts.changes_base || facts.keeps_client_state);
}

}  // namespace
}  // namespace weft::aggregators::testing
