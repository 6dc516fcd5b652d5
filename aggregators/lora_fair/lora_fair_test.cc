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
using ::testing::HasSubstr;
using testing::MeanProduct;
using testing::Modules;
using testing::Product;
using testing::RuleBench;

constexpr double kTolerance = 1e-6;  // of fp32 results: 2e-7 relative was seen

std::vector<Client> ThreeClients(const RuleBench& bench) {
  return {bench.Draw(5, 30), bench.Draw(6, 10), bench.Draw(7, 12)};
}

double Cosine(const MatrixXd& x, const MatrixXd& y) { return x.cwiseProduct(y).sum() / (x.norm() * y.norm()); }

std::string Config(const std::string& objective, double lambda, int64_t steps = 100) {
  return absl::StrCat(R"({"objective": ")", objective, R"(", "lambda": )", lambda, R"(, "max_steps": )", steps, "}");
}

// The result of a round, beside what it is measured against.
struct Outcome {
  Adapter next, averaged;
  MatrixXd ideal;  // D of module m.q
};
Outcome RoundOf(const std::string& config) {
  const RuleBench bench("lora_fair", config), plain("fedavg");
  const std::vector<Client> clients = ThreeClients(bench);
  return {*bench.Round(clients), *plain.Round(clients), MeanProduct(bench, clients, "m.q")};
}

TEST(LoraFairTest, Conformance_AllLawsHold) {
  for (const std::string& config : {Config("cosine", 0.01), Config("least_squares", 0.01)}) {
    conformance::Subject subject = RuleBench("lora_fair", config).Subject();
    subject.other = subject.job;
    *subject.other->mutable_aggregator()->mutable_config() = RuleBench::Parsed(R"({"lambda": 1})");
    testing::ExpectLawsHoldInEveryEncoding(subject);
  }
}

TEST(LoraFairTest, Finish_CorrectedBComesCloserToTheMeanProduct) {
  for (const std::string& config : {Config("cosine", 0.01), Config("least_squares", 0.01)}) {
    const Outcome outcome = RoundOf(config);
    const double before = Cosine(outcome.ideal, Product(outcome.averaged, "m.q"));
    const double after = Cosine(outcome.ideal, Product(outcome.next, "m.q"));
    EXPECT_GT(after, before + 0.001) << config;
    // No B can do better with this A than the least-squares one.
    const MatrixXd a = A(outcome.next, "m.q");
    const MatrixXd best = a.transpose().colPivHouseholderQr().solve(outcome.ideal.transpose()).transpose();
    EXPECT_LE(after, Cosine(outcome.ideal, best * a) + kTolerance) << config;
  }
}

TEST(LoraFairTest, Finish_AIsTheMeanAndSoAreOtherTensors) {
  const Outcome outcome = RoundOf("{}");
  EXPECT_TRUE(outcome.next.layout() == outcome.averaged.layout());
  for (const TensorSpec& spec : outcome.averaged.layout().tensors()) {
    if (spec.role == "lora_b") continue;
    for (int64_t i = 0; i < spec.size; ++i) {
      EXPECT_NEAR(outcome.next.tensor(spec)[i], outcome.averaged.tensor(spec)[i], 1e-6) << spec.name;
    }
  }
}

TEST(LoraFairTest, Finish_LeastSquaresIsTheDenseSolution) {
  for (const double lambda : {0.0, 0.5}) {
    const Outcome outcome = RoundOf(Config("least_squares", lambda));
    const MatrixXd a = A(outcome.averaged, "m.q"), mean = B(outcome.averaged, "m.q");
    const MatrixXd left = a * a.transpose() + lambda * MatrixXd::Identity(3, 3);
    const MatrixXd expected = (outcome.ideal * a.transpose() + lambda * mean) * left.inverse();
    EXPECT_LT((B(outcome.next, "m.q") - expected).norm(), 1e-5 * expected.norm());
    EXPECT_GT((mean - expected).norm(), 0.01 * expected.norm());
  }
}

TEST(LoraFairTest, Finish_MoreStepsNeverRaiseTheObjective) {
  double last = 1e9;
  for (const int64_t steps : {1, 2, 4, 8, 50}) {
    const Outcome outcome = RoundOf(Config("cosine", 0.01, steps));
    const double objective = 1 - Cosine(outcome.ideal, Product(outcome.next, "m.q")) +
                             0.01 * (B(outcome.next, "m.q") - B(outcome.averaged, "m.q")).norm();
    const double start = 1 - Cosine(outcome.ideal, Product(outcome.averaged, "m.q"));
    EXPECT_LT(objective, start);
    EXPECT_LE(objective, last + kTolerance);
    last = objective;
  }
}

TEST(LoraFairTest, Finish_WithoutAPenaltyTheCosineReachesItsCeiling) {
  const Outcome outcome = RoundOf(Config("cosine", 0, 10'000)), ceiling = RoundOf(Config("least_squares", 0));
  const double reached = Cosine(outcome.ideal, Product(outcome.next, "m.q"));
  const double best = Cosine(ceiling.ideal, Product(ceiling.next, "m.q"));
  EXPECT_NEAR(reached, best, 1e-4);
  EXPECT_LT(Cosine(outcome.ideal, Product(outcome.averaged, "m.q")), best - 1e-3);
}

TEST(LoraFairTest, Finish_ALargePenaltyGivesTheMeans) {
  for (const char* objective : {"cosine", "least_squares"}) {
    const Outcome outcome = RoundOf(Config(objective, 1e9));
    for (const std::string& module : Modules()) {
      const MatrixXd mean = B(outcome.averaged, module);
      EXPECT_LT((B(outcome.next, module) - mean).norm(), 1e-6 * mean.norm()) << objective;
    }
  }
}

TEST(LoraFairTest, Finish_OneClientComesBackAndIdenticalOnesKeepTheirProduct) {
  for (const char* objective : {"cosine", "least_squares"}) {
    const RuleBench bench("lora_fair", Config(objective, 0.01));
    const Client client = bench.Draw(4);
    Client twin = client;
    twin.id = "twin";
    const Adapter trained = bench.Trained(client), next = *bench.Round({client}), both = *bench.Round({client, twin});
    EXPECT_THAT(next.values(), ElementsAreArray(trained.values()));
    for (const std::string& module : Modules()) {
      EXPECT_LT((Product(both, module) - Product(trained, module)).norm(), 1e-5 * Product(trained, module).norm());
    }
  }
}

TEST(LoraFairTest, Finish_ZeroAndCancellingProductsKeepTheMeans) {
  for (const char* objective : {"cosine", "least_squares"}) {
    RuleBench bench("lora_fair", Config(objective, 0.01));
    for (const TensorSpec& spec : bench.layout()->tensors()) {
      if (spec.role == "lora_b") std::fill_n(bench.start().tensor(spec).begin(), spec.size, 0.0f);
    }
    const Adapter still = *bench.Round({bench.Draw(1, 1, 0), bench.Draw(2, 1, 0)});
    EXPECT_THAT(still.values(), ElementsAreArray(bench.start().values()));
    // Two clients whose B cancel.
    const Client one = bench.Draw(3);
    Client other = bench.Draw(4);
    for (const TensorSpec& spec : bench.layout()->tensors()) {
      if (spec.role != "lora_b") continue;
      for (int64_t i = 0; i < spec.size; ++i) other.delta.tensor(spec)[i] = -one.delta.tensor(spec)[i];
    }
    const Adapter next = *bench.Round({one, other});
    EXPECT_EQ(CheckFinite(next), absl::OkStatus());
    if (std::string(objective) == "cosine") {
      EXPECT_EQ(B(next, "m.q").norm(), 0);
    }
  }
}

TEST(LoraFairTest, Finish_RankOneUpdatesAreFinite) {
  for (const std::string& config : {Config("cosine", 0), Config("least_squares", 0)}) {
    RuleBench bench("lora_fair", config);
    bench.start() = testing::Filled(bench.layout(), 0);
    std::vector<Client> clients = {{"a", 1, testing::Filled(bench.SentOf(), 1)},
                                   {"b", 2, testing::Filled(bench.SentOf(), -3)}};
    const Adapter next = *bench.Round(clients);
    EXPECT_EQ(CheckFinite(next), absl::OkStatus());
    const MatrixXd ideal = MeanProduct(bench, clients, "m.q");
    if (config == Config("least_squares", 0)) {
      EXPECT_LT((Product(next, "m.q") - ideal).norm(), 1e-5 * ideal.norm());
    }
  }
}

TEST(LoraFairTest, Finish_SameBitsOnAnyNumberOfThreads) {
  const RuleBench bench("lora_fair");
  EXPECT_EQ(bench.Round(ThreeClients(bench), 1, 4)->ContentHash(), bench.Round(ThreeClients(bench))->ContentHash());
}

TEST(LoraFairTest, Validate_FewerComponentsAreRefused) {
  const RuleBench bench("lora_fair");
  EXPECT_THAT(bench.Round({bench.Draw(1, 1, 1, 2)}).status().message(), HasSubstr("whole factors only"));
}

TEST(LoraFairTest, CheckJob_RefusesByPathAndForm) {
  EXPECT_EQ(RuleBench("lora_fair").CheckJob(), absl::OkStatus());
  for (const char* bad : {R"({"objective": "norm"})", R"({"lambda": -1})", R"({"max_steps": 0})"}) {
    EXPECT_THAT(RuleBench("lora_fair", bad).CheckJob().message(), HasSubstr("aggregator.config.")) << bad;
  }
  const RuleBench no_factors("lora_fair", "{}", *Layout::Create({{.name = "s", .role = "ssf_scale", .shape = {4}}}));
  EXPECT_THAT(no_factors.CheckJob().message(), HasSubstr("adapter.form lora"));
}

TEST(LoraFairTest, Facts_NeedsSingleUpdates) {
  const Facts facts = RuleBench("lora_fair").rule().facts();
  EXPECT_TRUE(facts.needs_single_updates && facts.needs_products && facts.returns_single_update);
  EXPECT_FALSE(facts.linear || facts.finishes_from_mean || facts.works_under_central_dp || facts.changes_base ||
               facts.works_under_secure_aggregation || facts.takes_mixed_ranks);
}

}  // namespace
}  // namespace weft::aggregators
