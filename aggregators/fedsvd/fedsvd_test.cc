#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/conformance.h"
#include "aggregators/core/testing/rule_bench.h"
#include "aggregators/core/testing/values.h"

namespace weft::aggregators::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Distance of A's rows from orthonormal.
double Skew(const Eigen::MatrixXd& a) {
  return (a * a.transpose() - Eigen::MatrixXd::Identity(a.rows(), a.rows())).norm();
}

double Distance(const Eigen::MatrixXd& found, const Eigen::MatrixXd& expected) {
  return (found - expected).norm() / expected.norm();
}

TEST(FedSvdTest, Conformance_AllLawsHold) {
  const RuleBench bench("fedsvd"), other("fedsvd", R"({"weights": {"max_examples": 9}})");
  conformance::Subject subject = bench.Subject();
  subject.other = other.Subject().job;
  conformance::ExpectLawsHold(subject);
}

TEST(FedSvdTest, FillPlan_ANeitherTrainedNorSent) {
  const proto::Plan plan = RuleBench("fedsvd").PlanOf();
  EXPECT_THAT(plan.roles_trained(), ElementsAre("lora_b", "head"));
  EXPECT_THAT(plan.roles_sent(), ElementsAre("lora_b", "head"));
}

// B A = [3, 0, 4]^T [0, 2] after the mean: U = [.6, 0, .8]^T, S = 5 * 2, V = [0, 1]^T.
TEST(FedSvdTest, Finish_RankOneByHand) {
  RuleBench bench("fedsvd", "{}", OneModule());
  bench.start() = With(bench.layout(), {{"m.lora_A.weight", {0, -2}}, {"m.lora_B.weight", {1, 0, 0}}});
  const auto next =
      bench.Round({{"a", 1, With(bench.SentOf(), {{"m.lora_B.weight", {-8, 0, 4}}, {"head.bias", {1}}})},
                   {"b", 1, With(bench.SentOf(), {{"m.lora_B.weight", {0, 0, -12}}, {"head.bias", {3}}})}});
  ASSERT_TRUE(next.ok()) << next.status();
  const std::vector<float> a = ValuesOf(*next, "m.lora_A.weight"), b = ValuesOf(*next, "m.lora_B.weight");
  EXPECT_THAT(a, ElementsAre(::testing::FloatNear(0, 1e-7f), ::testing::FloatEq(1)));
  EXPECT_THAT(b, ElementsAre(::testing::FloatEq(6), ::testing::FloatNear(0, 1e-6f), ::testing::FloatEq(8)));
  EXPECT_THAT(ValuesOf(*next, "head.bias"), ElementsAre(2));
}

TEST(FedSvdTest, Finish_KeepsTheExactMeanOfProductsWithOrthonormalA) {
  RuleBench bench("fedsvd");
  for (const size_t count : {1, 3}) {
    std::vector<Client> clients;
    double total = 0;
    for (size_t k = 0; k < count; ++k) {
      clients.push_back(bench.Draw(k + 1, 1 + 5 * k));
      total += static_cast<double>(clients.back().examples);
    }
    const Adapter next = *bench.Round(clients);
    for (const std::string& module : Modules()) {
      const Eigen::MatrixXd a = A(bench.start(), module);
      Eigen::MatrixXd mean = B(bench.start(), module) * a;
      for (const Client& client : clients) {
        mean += B(client.delta, module) * a * (static_cast<double>(client.examples) / total);
      }
      EXPECT_LT(Distance(Product(next, module), mean), 1e-6);  // measured 6e-8
      EXPECT_GT(Distance(1.0001 * Product(next, module), mean), 1e-6);
      EXPECT_LT(Skew(A(next, module)), 1e-6);  // measured 1e-7
      // Columns of B are orthogonal, of descending norm: U S.
      const Eigen::MatrixXd gram = B(next, module).transpose() * B(next, module);
      EXPECT_LT((gram - Eigen::MatrixXd(gram.diagonal().asDiagonal())).norm() / gram.norm(), 1e-6);  // measured 3e-8
      for (int j = 1; j < gram.rows(); ++j) EXPECT_LE(gram(j, j), gram(j - 1, j - 1));
    }
  }
}

TEST(FedSvdTest, Finish_NoChangeKeepsTheProduct) {
  RuleBench bench("fedsvd");
  const Adapter next = *bench.Round({{"a", 1, Adapter(bench.SentOf())}});
  for (const std::string& module : Modules()) {
    EXPECT_LT(Distance(Product(next, module), Product(bench.start(), module)), 1e-6);
  }
  EXPECT_EQ(ValuesOf(next, "head.bias"), ValuesOf(bench.start(), "head.bias"));
}

TEST(FedSvdTest, Finish_SameBitsForAnyNumberOfThreads) {
  const RuleBench bench("fedsvd");
  const std::vector<Client> clients = {bench.Draw(1, 3), bench.Draw(2, 5)};
  const std::string one = bench.Round(clients, 1, 1)->ContentHash();
  for (const int threads : {2, 5}) EXPECT_EQ(bench.Round(clients, 1, threads)->ContentHash(), one);
}

// A random A with B = 0, as a job starts: the rows stay in their span, B stays 0.
TEST(FedSvdTest, InitialState_OrthonormalisesARandomA) {
  RuleBench bench("fedsvd");
  Adapter initial = Random(bench.layout(), 4);
  for (const TensorSpec& tensor : initial.layout().tensors()) {
    if (tensor.role == "lora_b") std::fill_n(initial.tensor(tensor).begin(), tensor.size, 0.0f);
  }
  const Adapter state = *bench.rule().InitialState(bench.job(), initial.Clone());
  for (const std::string& module : Modules()) {
    const Eigen::MatrixXd a = A(state, module), before = A(initial, module);
    EXPECT_LT(Skew(a), 1e-6);
    EXPECT_GT(Skew(before), 0.1);
    EXPECT_LT(Distance(before * a.transpose() * a, before), 1e-6);  // projected onto the new rows: all there
    EXPECT_EQ(B(state, module).norm(), 0);
  }
  EXPECT_EQ(ValuesOf(state, "head.bias"), ValuesOf(initial, "head.bias"));
}

TEST(FedSvdTest, InitialState_KeepsTheProductOfAWarmStart) {
  RuleBench bench("fedsvd");
  const Adapter state = *bench.rule().InitialState(bench.job(), bench.start().Clone());
  for (const std::string& module : Modules()) {
    EXPECT_LT(Distance(Product(state, module), Product(bench.start(), module)), 1e-6);
    EXPECT_LT(Skew(A(state, module)), 1e-6);
  }
}

TEST(FedSvdTest, CheckJob_RefusesWhatCannotWork) {
  EXPECT_THAT(RuleBench("fedsvd", "{}", NoFactors()).CheckJob().message(),
              HasSubstr("use adapter.form lora, or aggregator fedavg"));
  const RuleBench wide("fedsvd", "{}", TwoModules(5));  // m.v has 4 inputs
  EXPECT_EQ(wide.CheckJob().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(wide.CheckJob().message(), HasSubstr("found rank 5 of m.v, which has 4 inputs"));
  EXPECT_THAT(wide.CheckJob().message(), HasSubstr("use a rank of at most 4 or aggregator ffa_lora"));
  RuleBench bench("fedsvd");
  EXPECT_EQ(bench.CheckJob(), absl::OkStatus());
  bench.job().mutable_encoding()->set_values("int8");
  EXPECT_EQ(bench.CheckJob(), absl::OkStatus());
  bench.job().mutable_encoding()->set_error_feedback(true);
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("set encoding.error_feedback: false, or use aggregator ffa_lora"));
  bench.job().mutable_encoding()->set_values("f32");
  EXPECT_EQ(bench.CheckJob(), absl::OkStatus());
  bench.Configure(R"({"rank": 2})");
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("rank"));
  bench.Configure("{}");
  bench.job().mutable_selection()->set_clients(1'000'000);
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("aggregator.config.weights.max_examples"));
}

TEST(FedSvdTest, Facts_PostProcessingOfAMeanThatTurnsFactors) {
  const Facts facts = RuleBench("fedsvd").rule().facts();
  EXPECT_TRUE(facts.linear && facts.works_under_secure_aggregation && facts.works_under_central_dp);
  EXPECT_TRUE(facts.finishes_from_mean && facts.rebases_factors);
  EXPECT_FALSE(facts.returns_single_update || facts.needs_single_updates || facts.changes_base);
}

}  // namespace
}  // namespace weft::aggregators::testing
