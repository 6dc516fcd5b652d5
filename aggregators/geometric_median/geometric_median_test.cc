#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "aggregators/core/testing/rule_bench.h"

namespace weft::aggregators {
namespace {

using testing::Client;
using testing::Filled;
using ::testing::HasSubstr;
using testing::RuleBench;

Adapter StepOf(const RuleBench& bench, const std::vector<Client>& clients) {
  Adapter step = *bench.Round(clients);
  for (size_t i = 0; i < step.values().size(); ++i) step.values()[i] -= bench.start().values()[i];
  return step;
}

double DistanceSum(std::span<const float> z, const std::vector<Client>& clients) {
  double sum = 0;
  for (const Client& client : clients) {
    double squared = 0;
    for (size_t i = 0; i < z.size(); ++i) squared += std::pow(static_cast<double>(z[i]) - client.delta.values()[i], 2);
    sum += std::sqrt(squared);
  }
  return sum;
}

TEST(GeometricMedianTest, Conformance_AllLawsHold) {
  conformance::Subject subject = RuleBench("geometric_median").Subject();
  subject.other = subject.job;
  *subject.other->mutable_aggregator()->mutable_config() = RuleBench::Parsed(R"({"iterations": 3})");
  testing::ExpectLawsHoldInEveryEncoding(subject);
}

TEST(GeometricMedianTest, Finish_OnALineItIsTheMedian) {
  RuleBench bench("geometric_median");
  bench.start() = Filled(bench.layout(), 0);
  const auto layout = bench.SentOf();
  const Adapter step =
      StepOf(bench, {{"a", 1, Filled(layout, 0)}, {"b", 1, Filled(layout, 1)}, {"c", 1, Filled(layout, 10)}});
  for (const float x : step.values()) EXPECT_NEAR(x, 1, 1e-5);
}

TEST(GeometricMedianTest, Finish_NoNearbyPointIsCloserToAll) {
  RuleBench bench("geometric_median");
  bench.start() = Filled(bench.layout(), 0);
  std::vector<Client> clients;
  for (uint64_t k = 0; k < 7; ++k) clients.push_back(bench.Draw(k, 1, 1 + static_cast<double>(k)));
  const Adapter step = StepOf(bench, clients);
  const double least = DistanceSum(step.values(), clients);
  for (uint64_t seed = 0; seed < 50; ++seed) {
    Adapter near = testing::Random(bench.layout(), 100 + seed, 1e-2);
    for (size_t i = 0; i < near.values().size(); ++i) near.values()[i] += step.values()[i];
    EXPECT_GT(DistanceSum(near.values(), clients), least);
  }
  // The mean is one that is not.
  Adapter mean(bench.layout());
  for (const Client& client : clients) {
    for (size_t i = 0; i < mean.values().size(); ++i) mean.values()[i] += client.delta.values()[i] / 7;
  }
  EXPECT_GT(DistanceSum(mean.values(), clients), least * 1.01);
}

TEST(GeometricMedianTest, Finish_AFifthOfHostileClientsMovesItLittle) {
  RuleBench bench("geometric_median");
  bench.start() = Filled(bench.layout(), 0);
  std::vector<Client> honest;
  for (uint64_t k = 0; k < 8; ++k) honest.push_back(bench.Draw(k));
  std::vector<Client> all = honest;
  for (const char* id : {"x", "y"}) all.push_back({id, 1, Filled(bench.SentOf(), 6e4f)});
  const Adapter without = StepOf(bench, honest), with = StepOf(bench, all);
  double moved = 0, spread = 0;
  for (size_t i = 0; i < with.values().size(); ++i) {
    moved += std::pow(with.values()[i] - without.values()[i], 2);
    spread += std::pow(honest[0].delta.values()[i] - without.values()[i], 2);
  }
  EXPECT_LT(std::sqrt(moved), 0.5 * std::sqrt(spread));  // the mean moves 1.2e4 in each coordinate
}

TEST(GeometricMedianTest, Finish_OneIdenticalAndZeroUpdates) {
  RuleBench bench("geometric_median");
  const Client client = bench.Draw(4);
  const Adapter trained = bench.Trained(client);
  std::vector<Client> same;
  for (const char* id : {"a", "b", "c"}) {
    same.push_back(client);
    same.back().id = id;
    const Adapter next = *bench.Round(same);
    EXPECT_THAT(next.values(), ::testing::ElementsAreArray(trained.values())) << same.size();
  }
  const Adapter next = *bench.Round({{"a", 1, Adapter(bench.SentOf())}, {"b", 1, Adapter(bench.SentOf())}});
  EXPECT_THAT(next.values(), ::testing::ElementsAreArray(bench.start().values()));
}

TEST(GeometricMedianTest, Finish_SameBitsOnAnyNumberOfThreads) {
  RuleBench bench("geometric_median");
  std::vector<Client> clients;
  for (uint64_t k = 0; k < 5; ++k) clients.push_back(bench.Draw(k));
  const std::string expected = bench.Round(clients)->ContentHash();
  EXPECT_EQ(bench.Round(clients, 1, 3)->ContentHash(), expected);
}

TEST(GeometricMedianTest, CheckJob_RefusesByPath) {
  EXPECT_EQ(RuleBench("geometric_median").CheckJob(), absl::OkStatus());  // factors stay together
  for (const char* key : {"smoothing", "iterations", "tolerance"}) {
    const RuleBench bench("geometric_median", absl::StrCat("{\"", key, "\": -1}"));
    EXPECT_THAT(bench.CheckJob().message(), HasSubstr(absl::StrCat("aggregator.config.", key)));
  }
}

TEST(GeometricMedianTest, Facts_AWrapperOnSingleUpdates) {
  const Facts facts = RuleBench("geometric_median").rule().facts();
  EXPECT_TRUE(facts.needs_single_updates && facts.wraps_rule);
  EXPECT_FALSE(facts.linear || facts.works_under_central_dp || facts.works_under_secure_aggregation);
}

}  // namespace
}  // namespace weft::aggregators
