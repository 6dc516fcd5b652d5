#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/testing/rule_bench.h"

namespace weft::aggregators {
namespace {

using Eigen::MatrixXd;
using testing::A;
using testing::B;
using testing::Client;
using ::testing::HasSubstr;
using testing::MeanProduct;
using testing::Modules;
using testing::Product;
using testing::RuleBench;

constexpr double kTolerance = 1e-6;  // of fp32 results: 2e-7 relative was seen
constexpr char kSqrt[] = R"({"split": "sqrt"})";

// Unequal weights and ranks.
std::vector<Client> ThreeClients(const RuleBench& bench) {
  return {bench.Draw(5, 30, 1, 2), bench.Draw(6, 1, 1, 1), bench.Draw(7, 12)};
}

MatrixXd BestOf(const MatrixXd& dense, int64_t rank) {
  const Eigen::JacobiSVD<MatrixXd> svd(dense, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return svd.matrixU().leftCols(rank) * svd.singularValues().head(rank).asDiagonal() *
         svd.matrixV().leftCols(rank).transpose();
}

TEST(FlexLoraTest, Conformance_AllLawsHold) {
  for (const char* config : {"{}", kSqrt}) {
    conformance::Subject subject = RuleBench("flexlora", config).Subject();
    subject.other = subject.job;
    *subject.other->mutable_aggregator()->mutable_config() = RuleBench::Parsed(R"({"weights": {"by": "uniform"}})");
    testing::ExpectLawsHoldInEveryEncoding(subject);
  }
}

TEST(FlexLoraTest, Finish_IsTheBestApproximationOfTheMeanProduct) {
  for (const char* config : {"{}", kSqrt}) {
    const RuleBench bench("flexlora", config);
    const std::vector<Client> clients = ThreeClients(bench);
    const Adapter next = *bench.Round(clients);
    for (const std::string& module : Modules()) {
      const MatrixXd ideal = MeanProduct(bench, clients, module), best = BestOf(ideal, 3);
      EXPECT_LT((Product(next, module) - best).norm(), kTolerance * best.norm()) << module << config;
      // Something was cut, so that another factor pair would show.
      EXPECT_GT((ideal - best).norm(), 0.01 * ideal.norm()) << module;
    }
  }
}

TEST(FlexLoraTest, Finish_EachPrefixIsTheBestOfItsRank) {
  const RuleBench bench("flexlora");
  const std::vector<Client> clients = ThreeClients(bench);
  const Adapter next = *bench.Round(clients);
  for (int64_t rank = 1; rank <= 3; ++rank) {
    const MatrixXd best = BestOf(MeanProduct(bench, clients, "m.q"), rank);
    const MatrixXd prefix = B(next, "m.q").leftCols(rank) * A(next, "m.q").topRows(rank);
    EXPECT_LT((prefix - best).norm(), kTolerance * best.norm()) << rank;
  }
}

TEST(FlexLoraTest, Finish_SplitSaysWhereTheSingularValuesGo) {
  const RuleBench to_b("flexlora"), to_both("flexlora", kSqrt);
  const std::vector<Client> clients = ThreeClients(to_b);
  const Adapter one = *to_b.Round(clients), other = *to_both.Round(clients);
  const Eigen::VectorXd sigma = MeanProduct(to_b, clients, "m.q").jacobiSvd().singularValues().head(3);
  for (int64_t j = 0; j < 3; ++j) {
    EXPECT_NEAR(A(one, "m.q").row(j).norm(), 1, kTolerance);
    EXPECT_NEAR(B(one, "m.q").col(j).norm(), sigma[j], kTolerance * sigma[0]);
    EXPECT_NEAR(A(other, "m.q").row(j).squaredNorm(), sigma[j], kTolerance * sigma[0]);
    EXPECT_NEAR(B(other, "m.q").col(j).squaredNorm(), sigma[j], kTolerance * sigma[0]);
  }
}

TEST(FlexLoraTest, Finish_OneClientKeepsItsProduct) {
  const RuleBench bench("flexlora");
  for (const Client& client : {bench.Draw(5, 7), bench.Draw(6, 7, 1, 2)}) {
    const Adapter next = *bench.Round({client});
    for (const std::string& module : Modules()) {
      const MatrixXd own = Product(bench.Trained(client), module);
      EXPECT_LT((Product(next, module) - own).norm(), kTolerance * own.norm()) << client.rank;
    }
  }
}

TEST(FlexLoraTest, Finish_ZeroAndRankOneProductsCanBeTrainedOn) {
  for (const char* config : {"{}", kSqrt}) {
    RuleBench bench("flexlora", config);
    for (const TensorSpec& spec : bench.layout()->tensors()) {
      if (spec.role == "lora_b") std::fill_n(bench.start().tensor(spec).begin(), spec.size, 0.0f);
    }
    const Adapter zero = *bench.Round({bench.Draw(1, 1, 0), bench.Draw(2, 1, 0)});
    Client one = bench.Draw(3, 1, 0);  // moves one column of B
    const TensorSpec& b = *one.delta.layout().Find("m.q.lora_B.weight");
    for (int64_t row = 0; row < 5; ++row) one.delta.tensor(b)[row * 3 + 1] = 1;
    const Adapter rank_one = *bench.Round({one});
    EXPECT_EQ(Product(zero, "m.q").norm(), 0);
    EXPECT_LT((Product(rank_one, "m.q") - Product(bench.Trained(one), "m.q")).norm(), kTolerance);
    for (const Adapter* next : {&zero, &rank_one}) {
      // A component whose A and B are both zero would have no gradient for ever.
      for (int64_t j = 0; j < 3; ++j) EXPECT_GT(A(*next, "m.q").row(j).norm(), 0.1) << config;
    }
  }
}

TEST(FlexLoraTest, Finish_GaugeOfAClientDoesNotMatter) {
  RuleBench bench("flexlora");
  const std::vector<Client> clients = {bench.Draw(5, 2), bench.Draw(6)};
  std::vector<Client> turned = clients;  // client 0 trained (2 A, B / 2)
  const Adapter trained = bench.Trained(clients[0]);
  for (const TensorSpec& spec : turned[0].delta.layout().tensors()) {
    const float factor = spec.role == "lora_a" ? 2.0f : spec.role == "lora_b" ? 0.5f : 1.0f;
    for (int64_t i = 0; i < spec.size; ++i) {
      turned[0].delta.tensor(spec)[i] = trained.tensor(spec)[i] * factor - bench.start().tensor(spec)[i];
    }
  }
  const Adapter one = *bench.Round(clients), other = *bench.Round(turned);
  for (const std::string& module : Modules()) {
    EXPECT_LT((Product(one, module) - Product(other, module)).norm(), kTolerance * Product(one, module).norm());
  }
}

TEST(FlexLoraTest, Finish_SameBitsOnAnyNumberOfThreads) {
  const RuleBench bench("flexlora");
  const std::vector<Client> clients = ThreeClients(bench);
  EXPECT_EQ(bench.Round(clients, 1, 4)->ContentHash(), bench.Round(clients)->ContentHash());
}

TEST(FlexLoraTest, Validate_RanksOutOfRangeAreRefused) {
  const RuleBench bench("flexlora");
  Client client = bench.Draw(1);
  client.rank = 4;
  EXPECT_THAT(bench.Round({client}).status().message(), HasSubstr("expected 1 to 3"));
  client.rank = 2;  // but all components sent
  EXPECT_THAT(bench.Round({client}).status().message(), HasSubstr("layout"));
}

TEST(FlexLoraTest, CheckJob_RefusesByPathAndForm) {
  EXPECT_EQ(RuleBench("flexlora").CheckJob(), absl::OkStatus());
  EXPECT_THAT(RuleBench("flexlora", R"({"split": "a"})").CheckJob().message(), HasSubstr("aggregator.config.split"));
  const RuleBench no_factors("flexlora", "{}", *Layout::Create({{.name = "s", .role = "ssf_scale", .shape = {4}}}));
  EXPECT_THAT(no_factors.CheckJob().message(), HasSubstr("adapter.form lora"));
}

TEST(FlexLoraTest, Facts_TakesMixedRanks) {
  const Facts facts = RuleBench("flexlora").rule().facts();
  EXPECT_TRUE(facts.needs_single_updates && facts.needs_products && facts.takes_mixed_ranks);
  EXPECT_FALSE(facts.linear || facts.finishes_from_mean || facts.works_under_central_dp || facts.changes_base ||
               facts.works_under_secure_aggregation || facts.returns_single_update);
}

}  // namespace
}  // namespace weft::aggregators
