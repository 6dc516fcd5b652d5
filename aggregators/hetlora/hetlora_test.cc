#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/testing/rule_bench.h"

namespace weft::aggregators {
namespace {

using Eigen::MatrixXd;
using testing::A;
using testing::B;
using testing::Client;
using ::testing::ElementsAreArray;
using testing::Filled;
using ::testing::HasSubstr;
using testing::MatrixOf;
using testing::Modules;
using testing::Product;
using testing::RuleBench;

constexpr double kTolerance = 1e-6;  // of fp32 results: 2e-7 relative was seen

// |B A|_F over all modules, densely.
double NormOf(const Adapter& trained) {
  double squared = 0;
  for (const std::string& module : Modules()) squared += Product(trained, module).squaredNorm();
  return std::sqrt(squared);
}

MatrixXd Padded(const MatrixXd& matrix, int64_t rows, int64_t columns) {
  MatrixXd padded = MatrixXd::Zero(rows, columns);
  padded.topLeftCorner(matrix.rows(), matrix.cols()) = matrix;
  return padded;
}

TEST(HetLoraTest, Conformance_AllLawsHold) {
  conformance::Subject subject = RuleBench("hetlora").Subject();
  subject.other = subject.job;
  *subject.other->mutable_aggregator()->mutable_config() = RuleBench::Parsed(R"({"gamma": 0.5})");
  testing::ExpectLawsHoldInEveryEncoding(subject);
}

TEST(HetLoraTest, Finish_PaddedFactorsWeightedByTheNormOfTheirProduct) {
  const RuleBench bench("hetlora");
  const std::vector<Client> clients = {bench.Draw(5, 1000, 1, 2), bench.Draw(6, 1, 3), bench.Draw(7, 1, 0.5, 1)};
  double total = 0;
  for (const Client& client : clients) total += NormOf(bench.Trained(client));
  const Adapter next = *bench.Round(clients);
  for (const std::string& module : Modules()) {
    MatrixXd a = MatrixXd::Zero(A(next, module).rows(), A(next, module).cols());
    MatrixXd b = MatrixXd::Zero(B(next, module).rows(), B(next, module).cols());
    for (const Client& client : clients) {
      const double weight = NormOf(bench.Trained(client)) / total;
      a += weight * Padded(A(bench.Trained(client), module), a.rows(), a.cols());
      b += weight * Padded(B(bench.Trained(client), module), b.rows(), b.cols());
    }
    EXPECT_LT((A(next, module) - a).norm(), kTolerance * a.norm());
    EXPECT_LT((B(next, module) - b).norm(), kTolerance * b.norm());
  }
  MatrixXd head = MatrixOf(bench.start(), "head.bias");
  for (const Client& client : clients)
    head += NormOf(bench.Trained(client)) / total * MatrixOf(client.delta, "head.bias");
  EXPECT_LT((MatrixOf(next, "head.bias") - head).norm(), kTolerance);
}

TEST(HetLoraTest, Finish_AComponentThatNobodyHasKeepsItsValue) {
  const RuleBench bench("hetlora");
  const Adapter next = *bench.Round({bench.Draw(5, 1, 1, 1), bench.Draw(6, 1, 1, 2)});
  for (const std::string& module : Modules()) {
    EXPECT_EQ(A(next, module).row(2), A(bench.start(), module).row(2));
    EXPECT_EQ(B(next, module).col(2), B(bench.start(), module).col(2));
    EXPECT_NE(A(next, module).row(1), A(bench.start(), module).row(1));
    EXPECT_NE(B(next, module).col(1), B(bench.start(), module).col(1));
  }
}

TEST(HetLoraTest, Finish_AllProductsZeroMeansAllAlike) {
  RuleBench bench("hetlora");
  bench.start() = Filled(bench.layout(), 0);
  std::vector<Client> clients;
  for (const float value : {1.0f, 3.0f}) {  // A moves, B does not
    clients.push_back({absl::StrCat(value), 1, Adapter(bench.SentOf())});
    for (const TensorSpec& spec : clients.back().delta.layout().tensors()) {
      if (spec.role != "lora_b") std::fill_n(clients.back().delta.tensor(spec).begin(), spec.size, value);
    }
  }
  const Adapter next = *bench.Round(clients);
  EXPECT_EQ(A(next, "m.q")(0, 0), 2);
  EXPECT_EQ(MatrixOf(next, "head.bias")(0, 0), 2);
  EXPECT_EQ(B(next, "m.q").norm(), 0);
}

TEST(HetLoraTest, Finish_OneAndIdenticalUpdatesComeBack) {
  const RuleBench bench("hetlora");
  const Client client = bench.Draw(4);
  Client twin = client;
  twin.id = "twin";
  const Adapter trained = bench.Trained(client), next = *bench.Round({client}), both = *bench.Round({client, twin});
  EXPECT_THAT(next.values(), ElementsAreArray(trained.values()));
  EXPECT_THAT(both.values(), ElementsAreArray(trained.values()));
}

TEST(HetLoraTest, FillPlan_AsksForSelfPruningUnlessGammaIsOne) {
  const proto::Plan plan = RuleBench("hetlora", R"({"lambda": 0.5, "gamma": 0.75})").PlanOf();
  EXPECT_EQ(plan.rank_pruning().lambda(), 0.5);
  EXPECT_EQ(plan.rank_pruning().gamma(), 0.75);
  EXPECT_FALSE(RuleBench("hetlora", R"({"gamma": 1})").PlanOf().has_rank_pruning());
}

TEST(HetLoraTest, CheckJob_RefusesByPathAndForm) {
  EXPECT_EQ(RuleBench("hetlora").CheckJob(), absl::OkStatus());
  for (const char* bad : {R"({"gamma": 0})", R"({"gamma": 1.5})", R"({"lambda": -1})", R"({"weights": {}})"}) {
    EXPECT_THAT(RuleBench("hetlora", bad).CheckJob().message(), HasSubstr("aggregator.config")) << bad;
  }
  const RuleBench no_factors("hetlora", "{}", *Layout::Create({{.name = "s", .role = "ssf_scale", .shape = {4}}}));
  EXPECT_THAT(no_factors.CheckJob().message(), HasSubstr("adapter.form lora"));
}

TEST(HetLoraTest, Facts_TakesMixedRanksAndClientsKeepTheirs) {
  const Facts facts = RuleBench("hetlora").rule().facts();
  EXPECT_TRUE(facts.needs_single_updates && facts.needs_products && facts.takes_mixed_ranks &&
              facts.keeps_client_state && facts.returns_single_update);
  EXPECT_FALSE(facts.linear || facts.finishes_from_mean || facts.works_under_central_dp || facts.changes_base ||
               facts.works_under_secure_aggregation);
}

}  // namespace
}  // namespace weft::aggregators
