#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/testing/rule_bench.h"

namespace weft::aggregators {
namespace {

using Eigen::MatrixXd;
using testing::BaseStep;
using testing::Client;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using testing::MeanProduct;
using testing::Modules;
using testing::Product;
using testing::RuleBench;

// Of fp32 results: 2e-7 relative was seen.
constexpr double kTolerance = 1e-6;

std::vector<Client> ThreeClients(const RuleBench& bench) {
  return {bench.Draw(5, 30), bench.Draw(6, 1), bench.Draw(7, 12)};
}

int64_t RankOf(const Adapter& state, const std::string& module) {
  return state.layout().Find(module + ".base_A.weight")->shape[0];
}

TEST(FedExLoraTest, Conformance_AllLawsHold) {
  conformance::Subject subject = RuleBench("fedex_lora").Subject();
  subject.other = subject.job;
  *subject.other->mutable_aggregator()->mutable_config() = RuleBench::Parsed(R"({"residual_rank": 1})");
  testing::ExpectLawsHoldInEveryEncoding(subject);
}

TEST(FedExLoraTest, Finish_FactorsAndResidualGiveTheMeanProduct) {
  const RuleBench bench("fedex_lora");
  const std::vector<Client> clients = ThreeClients(bench);
  const Adapter next = *bench.Round(clients);
  for (const std::string& module : Modules()) {
    const MatrixXd ideal = MeanProduct(bench, clients, module), averaged = Product(next, module);
    EXPECT_LT((averaged + BaseStep(next, module) - ideal).norm(), kTolerance * ideal.norm()) << module;
    // Without the residual a good part is lost.
    EXPECT_GT((averaged - ideal).norm(), 0.1 * ideal.norm()) << module;
  }
}

TEST(FedExLoraTest, Finish_FactorsAreTheMeans) {
  const RuleBench bench("fedex_lora"), plain("fedavg");
  const std::vector<Client> clients = ThreeClients(bench);
  const Adapter next = *bench.Round(clients), mean = *plain.Round(clients);
  ASSERT_GT(next.layout().num_elements(), mean.layout().num_elements());
  for (const TensorSpec& spec : mean.layout().tensors()) {
    for (int64_t i = 0; i < spec.size; ++i) EXPECT_NEAR(next.tensor(spec)[i], mean.tensor(spec)[i], 1e-6) << spec.name;
  }
}

TEST(FedExLoraTest, Finish_ResidualHasNoMoreComponentsThanItNeeds) {
  const RuleBench bench("fedex_lora");
  const std::vector<Client> three = ThreeClients(bench), two = {bench.Draw(5), bench.Draw(6)};
  const Adapter of_two = *bench.Round(two), of_three = *bench.Round(three);
  EXPECT_EQ(RankOf(of_two, "m.q"), 3);    // (K - 1) r
  EXPECT_EQ(RankOf(of_three, "m.q"), 5);  // out
  EXPECT_EQ(RankOf(of_three, "m.v"), 4);  // in
}

TEST(FedExLoraTest, Finish_TruncationIsTheBestOfItsRank) {
  const RuleBench exact("fedex_lora"), cut("fedex_lora", R"({"residual_rank": 2})");
  const std::vector<Client> clients = ThreeClients(exact);
  const Adapter whole = *exact.Round(clients), truncated = *cut.Round(clients);
  for (const std::string& module : Modules()) {
    ASSERT_EQ(RankOf(truncated, module), 2);
    const MatrixXd residual = BaseStep(whole, module);
    const Eigen::JacobiSVD<MatrixXd> svd(residual);
    const double tail = svd.singularValues().tail(svd.singularValues().size() - 2).norm();
    EXPECT_NEAR((BaseStep(truncated, module) - residual).norm(), tail, kTolerance * residual.norm());
    EXPECT_GT(tail, 0.01 * residual.norm());
  }
}

TEST(FedExLoraTest, Finish_OneAndIdenticalClientsLoseNothing) {
  const RuleBench bench("fedex_lora");
  const Client client = bench.Draw(5);
  Client twin = client;
  twin.id = "twin";
  for (const std::vector<Client>& clients : {std::vector<Client>{client}, {client, twin}}) {
    const Adapter next = *bench.Round(clients), trained = bench.Trained(client);
    EXPECT_THAT(next.values().first(trained.values().size()), ElementsAreArray(trained.values()));
    for (const std::string& module : Modules()) EXPECT_EQ(BaseStep(next, module).norm(), 0);
  }
}

TEST(FedExLoraTest, Finish_TheStepOfTheLastRoundIsReplaced) {
  RuleBench bench("fedex_lora");
  EXPECT_FALSE(bench.PlanOf().base_residual());
  bench.start() = *bench.Round(ThreeClients(bench));
  EXPECT_TRUE(bench.PlanOf(2).base_residual());
  EXPECT_EQ(bench.SentOf()->hash(), bench.layout()->hash());
  const std::vector<Client> two = {bench.Draw(8), bench.Draw(9)};
  const Adapter next = *bench.Round(two, 2);
  EXPECT_EQ(next.layout().tensors().size(), bench.start().layout().tensors().size());
  for (const std::string& module : Modules()) {
    const MatrixXd ideal = MeanProduct(bench, two, module);
    EXPECT_LT((Product(next, module) + BaseStep(next, module) - ideal).norm(), kTolerance * ideal.norm());
  }
}

TEST(FedExLoraTest, Finish_GaugeOfAClientDoesNotMatter) {
  RuleBench bench("fedex_lora"), plain("fedavg");
  const std::vector<Client> clients = ThreeClients(bench);
  std::vector<Client> turned = clients;  // client 0 trained (2 A, B / 2)
  const Adapter trained = bench.Trained(clients[0]);
  for (const TensorSpec& spec : turned[0].delta.layout().tensors()) {
    const float factor = spec.role == "lora_a" ? 2.0f : spec.role == "lora_b" ? 0.5f : 1.0f;
    for (int64_t i = 0; i < spec.size; ++i) {
      turned[0].delta.tensor(spec)[i] = trained.tensor(spec)[i] * factor - bench.start().tensor(spec)[i];
    }
  }
  const Adapter one = *bench.Round(clients), other = *bench.Round(turned);
  const Adapter mean = *plain.Round(clients), mean_turned = *plain.Round(turned);
  for (const std::string& module : Modules()) {
    const MatrixXd ideal = Product(one, module) + BaseStep(one, module);
    EXPECT_LT((Product(other, module) + BaseStep(other, module) - ideal).norm(), kTolerance * ideal.norm());
    EXPECT_GT((Product(mean, module) - Product(mean_turned, module)).norm(), 0.1 * ideal.norm());
  }
}

TEST(FedExLoraTest, Finish_SameBitsOnAnyNumberOfThreads) {
  const RuleBench bench("fedex_lora");
  const std::vector<Client> clients = ThreeClients(bench);
  EXPECT_EQ(bench.Round(clients, 1, 4)->ContentHash(), bench.Round(clients)->ContentHash());
}

TEST(FedExLoraTest, MemoryBytes_GrowsWithTheCohortAndWithTheResidual) {
  const RuleBench exact("fedex_lora"), cut("fedex_lora", R"({"residual_rank": 1})");
  RuleBench bench("fedex_lora");
  EXPECT_GT(exact.rule().MemoryBytes(bench.job(), *bench.layout(), 9), 9 * 2 * bench.layout()->size_bytes());
  RuleBench job("fedex_lora", R"({"residual_rank": 1})");
  EXPECT_LT(cut.rule().MemoryBytes(job.job(), *bench.layout(), 9),
            exact.rule().MemoryBytes(bench.job(), *bench.layout(), 9));
}

TEST(FedExLoraTest, CheckJob_RefusesByPathAndForm) {
  EXPECT_EQ(RuleBench("fedex_lora").CheckJob(), absl::OkStatus());
  EXPECT_THAT(RuleBench("fedex_lora", R"({"residual_rank": -1})").CheckJob().message(),
              HasSubstr("aggregator.config.residual_rank"));
  const RuleBench no_factors("fedex_lora", "{}", *Layout::Create({{.name = "s", .role = "ssf_scale", .shape = {4}}}));
  EXPECT_EQ(no_factors.CheckJob().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(no_factors.CheckJob().message(), HasSubstr("fedavg"));
}

TEST(FedExLoraTest, Validate_FewerComponentsAreRefused) {
  const RuleBench bench("fedex_lora");
  EXPECT_THAT(bench.Round({bench.Draw(1, 1, 1, 2)}).status().message(), HasSubstr("whole factors only"));
}

TEST(FedExLoraTest, Facts_ChangesTheBase) {
  const Facts facts = RuleBench("fedex_lora").rule().facts();
  EXPECT_TRUE(facts.needs_single_updates && facts.needs_products && facts.changes_base && facts.returns_single_update);
  EXPECT_FALSE(facts.linear || facts.finishes_from_mean || facts.works_under_central_dp ||
               facts.works_under_secure_aggregation || facts.takes_mixed_ranks);
}

}  // namespace
}  // namespace weft::aggregators
