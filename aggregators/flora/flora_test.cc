#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/forms/form.h"
#include "aggregators/core/testing/rule_bench.h"

namespace weft::aggregators {
namespace {

using Eigen::MatrixXd;
using testing::A;
using testing::B;
using testing::BaseStep;
using testing::Client;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using testing::MeanProduct;
using testing::Modules;
using testing::Product;
using testing::RuleBench;

constexpr double kTolerance = 1e-6;  // of fp32 results: 2e-7 relative was seen

RuleBench Bench(const std::string& config = "{}") {
  RuleBench bench("flora", config);
  *bench.job().mutable_adapter()->mutable_config() = RuleBench::Parsed(R"({"rank": 3, "target_modules": ["q", "v"]})");
  bench.job().set_seed(11);
  return bench;
}

// Unequal weights and ranks.
std::vector<Client> ThreeClients(const RuleBench& bench) {
  return {bench.Draw(5, 30, 1, 2), bench.Draw(6, 1, 1, 1), bench.Draw(7, 12)};
}

TEST(FloraTest, Conformance_AllLawsHold) {
  conformance::Subject subject = Bench().Subject();
  subject.other = subject.job;
  *subject.other->mutable_aggregator()->mutable_config() = RuleBench::Parsed(R"({"weights": {"by": "uniform"}})");
  testing::ExpectLawsHoldInEveryEncoding(subject);
}

TEST(FloraTest, Finish_TheStackIsTheMeanProductForUnequalWeightsAndRanks) {
  const RuleBench bench = Bench();
  const std::vector<Client> clients = ThreeClients(bench);
  const Adapter next = *bench.Round(clients);
  for (const std::string& module : Modules()) {
    const MatrixXd ideal = MeanProduct(bench, clients, module);
    EXPECT_LT((BaseStep(next, module) - ideal).norm(), kTolerance * ideal.norm()) << module;
    EXPECT_EQ(next.layout().Find(module + ".base_A.weight")->shape[0], 2 + 1 + 3);
    // Uniform weights would give another product.
    const MatrixXd other = BaseStep(*Bench(R"({"weights": {"by": "uniform"}})").Round(clients), module);
    EXPECT_GT((other - ideal).norm(), 0.1 * ideal.norm());
  }
}

TEST(FloraTest, Finish_TheNextRoundStartsFromFreshFactors) {
  const RuleBench bench = Bench();
  const Adapter next = *bench.Round(ThreeClients(bench));
  for (const std::string& module : Modules()) {
    EXPECT_EQ(B(next, module).norm(), 0);
    EXPECT_GT(A(next, module).norm(), 0);
  }
  // Other clients, the same start: it is the seed's.
  const Adapter other = *bench.Round({bench.Draw(1)});
  EXPECT_EQ(A(other, "m.q"), A(next, "m.q"));
  RuleBench seeded = Bench();
  seeded.job().set_seed(12);
  EXPECT_NE(A(*seeded.Round({bench.Draw(1)}), "m.q"), A(next, "m.q"));
}

TEST(FloraTest, FillPlan_ClientsInitialiseWhatTheStateHolds) {
  RuleBench bench = Bench();
  EXPECT_FALSE(bench.PlanOf(1).has_reinitialise());  // the job's own initial values, or a warm start
  EXPECT_FALSE(bench.PlanOf(1).base_residual());
  for (int64_t round = 1; round <= 3; ++round) {
    bench.start() = *bench.Round({bench.Draw(2), bench.Draw(3)}, round);
    const proto::Plan plan = bench.PlanOf(round + 1);
    EXPECT_TRUE(plan.base_residual());
    EXPECT_THAT(plan.reinitialise().roles(), ElementsAre("lora_a", "lora_b"));
    // What a client makes of the plan.
    Adapter fresh(bench.layout());
    ASSERT_TRUE((*CreateForm(bench.job().adapter()))->Reinitialise(plan.reinitialise().seed(), &fresh).ok());
    for (const TensorSpec& spec : bench.layout()->tensors()) {
      if (spec.role == "head") continue;
      EXPECT_THAT(bench.start().tensor(*bench.start().layout().Find(spec.name)), ElementsAreArray(fresh.tensor(spec)));
    }
  }
  EXPECT_NE(bench.PlanOf(2).reinitialise().seed(), bench.PlanOf(3).reinitialise().seed());
}

TEST(FloraTest, Finish_RoundsAddUp) {
  // Three rounds: the base's steps together are the sum of the rounds' mean products.
  RuleBench bench = Bench();
  MatrixXd steps = MatrixXd::Zero(5, 7), ideal = steps;
  for (int64_t round = 1; round <= 3; ++round) {
    const std::vector<Client> clients = {bench.Draw(10 + round, 3), bench.Draw(20 + round)};
    ideal += MeanProduct(bench, clients, "m.q");
    bench.start() = *bench.Round(clients, round);
    steps += BaseStep(bench.start(), "m.q");
  }
  EXPECT_LT((steps - ideal).norm(), kTolerance * ideal.norm());
}

TEST(FloraTest, Finish_OneClientAndZeroUpdates) {
  const RuleBench bench = Bench();
  const Client one = bench.Draw(5);
  const Adapter next = *bench.Round({one}), still = *bench.Round({bench.Draw(6, 1, 0)});
  for (const std::string& module : Modules()) {
    EXPECT_LT((BaseStep(next, module) - Product(bench.Trained(one), module)).norm(), kTolerance);
    // A zero delta is the start itself.
    EXPECT_LT((BaseStep(still, module) - Product(bench.start(), module)).norm(), kTolerance);
  }
}

TEST(FloraTest, Finish_OtherTensorsAreAveraged) {
  const RuleBench bench = Bench(), plain("fedavg");
  const std::vector<Client> clients = {bench.Draw(5, 30), bench.Draw(6)};
  const Adapter next = *bench.Round(clients), mean = *plain.Round(clients);
  const TensorSpec& head = *mean.layout().Find("head.bias");
  for (int64_t i = 0; i < head.size; ++i) {
    EXPECT_NEAR(next.tensor(*next.layout().Find("head.bias"))[i], mean.tensor(head)[i], 1e-6);
  }
}

TEST(FloraTest, CheckJob_RefusesWhatCannotBeStacked) {
  EXPECT_EQ(Bench().CheckJob(), absl::OkStatus());
  EXPECT_THAT(Bench(R"({"rank": 1})").CheckJob().message(), HasSubstr("rank"));
  const RuleBench no_factors("flora", "{}", *Layout::Create({{.name = "s", .role = "ssf_scale", .shape = {4}}}));
  EXPECT_THAT(no_factors.CheckJob().message(), HasSubstr("adapter.form lora"));
  // Fresh factors are the form's to make.
  EXPECT_THAT(RuleBench("flora").CheckJob().message(), HasSubstr("adapter.config.target_modules"));
}

TEST(FloraTest, Facts_ChangesTheBaseAndTakesMixedRanks) {
  const Facts facts = Bench().rule().facts();
  EXPECT_TRUE(facts.needs_single_updates && facts.needs_products && facts.changes_base && facts.takes_mixed_ranks);
  EXPECT_FALSE(facts.linear || facts.finishes_from_mean || facts.works_under_central_dp ||
               facts.works_under_secure_aggregation || facts.returns_single_update);
}

}  // namespace
}  // namespace weft::aggregators
