#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/testing/rule_bench.h"

namespace weft::aggregators {
namespace {

using testing::Client;
using testing::Filled;
using ::testing::HasSubstr;
using testing::RuleBench;

RuleBench Bench(const std::string& config, int64_t min_updates = 5) {
  RuleBench bench("krum", config);
  bench.job().mutable_round()->set_min_updates(min_updates);
  return bench;
}

std::vector<Client> OfValues(const RuleBench& bench, const std::vector<float>& values) {
  std::vector<Client> clients;
  for (size_t k = 0; k < values.size(); ++k) {
    clients.push_back({absl::StrCat("client-", k), 1, Filled(bench.SentOf(), values[k])});
  }
  return clients;
}

// The value that all elements moved by.
float StepOf(RuleBench bench, const std::vector<float>& values) {
  bench.start() = Filled(bench.layout(), 0);
  return bench.Round(OfValues(bench, values))->values()[0];
}

TEST(KrumTest, Conformance_AllLawsHold) {
  for (const char* config : {R"({"f": 0})", R"({"f": 0, "m": 3, "distance": "product"})"}) {
    conformance::Subject subject = Bench(config).Subject();
    subject.other = subject.job;
    *subject.other->mutable_aggregator()->mutable_config() = RuleBench::Parsed(R"({"f": 0, "m": 2})");
    testing::ExpectLawsHoldInEveryEncoding(subject);
  }
}

TEST(KrumTest, Finish_TheDeltaNearestToItsNeighboursWins) {
  // With n - f - 2 = 2 neighbours, of 0, 1, 1.1, 1.2 and 100 the scores are 2.21, 0.05, 0.02, 0.05 and 2e4.
  EXPECT_EQ(StepOf(Bench("{}"), {0, 1, 1.1f, 1.2f, 100}), 1.1f);
}

TEST(KrumTest, Finish_MultiKrumAveragesTheBest) {
  EXPECT_FLOAT_EQ(StepOf(Bench(R"({"m": 3})"), {0, 1, 1.1f, 1.2f, 100}), 1.1f);
  EXPECT_FLOAT_EQ(StepOf(Bench(R"({"m": 4})"), {0, 1, 1.1f, 1.2f, 100}), 3.3f / 4);
}

TEST(KrumTest, Finish_OfEqualScoresTheFirstClientWins) {
  // Two and two alike.
  EXPECT_EQ(StepOf(Bench(R"({"f": 0})", 4), {1, 1, 3, 3}), 1);
  EXPECT_EQ(StepOf(Bench(R"({"f": 0})", 4), {3, 3, 1, 1}), 3);
}

TEST(KrumTest, Finish_AFifthOfHostileClientsIsNeverChosen) {
  for (const char* config : {R"({"f": 2})", R"({"f": 2, "m": 8})", R"({"f": 2, "distance": "product"})"}) {
    const RuleBench bench = Bench(config, 10);
    ASSERT_EQ(bench.CheckJob(), absl::OkStatus());
    std::vector<Client> clients;
    for (uint64_t k = 0; k < 8; ++k) clients.push_back(bench.Draw(k, 1, 0.1));
    for (uint64_t k = 8; k < 10; ++k) clients.push_back({absl::StrCat(k), 1 << 30, Filled(bench.SentOf(), 50)});
    const Adapter next = *bench.Round(clients);
    for (size_t i = 0; i < next.values().size(); ++i) {
      EXPECT_LT(std::abs(next.values()[i] - bench.start().values()[i]), 1) << config;
    }
  }
}

TEST(KrumTest, Finish_ProductDistancesDoNotSeeTheGauge) {
  // Client 0 holds the centre of the others in the gauge (4 A, B / 4): the same product, far away in its factors.
  const auto round = [](const std::string& distance) {
    RuleBench bench = Bench(absl::StrCat(R"({"f": 1, "distance": ")", distance, "\"}"));
    std::vector<Client> clients = {bench.Draw(0, 1, 0)};
    for (const TensorSpec& spec : bench.layout()->tensors()) {
      const float factor = spec.role == "lora_a" ? 4.0f : spec.role == "lora_b" ? 0.25f : 1.0f;
      const TensorSpec& sent = *clients[0].delta.layout().Find(spec.name);
      for (int64_t i = 0; i < spec.size; ++i) {
        clients[0].delta.tensor(sent)[i] = bench.start().tensor(spec)[i] * (factor - 1);
      }
    }
    for (uint64_t k = 1; k < 5; ++k) clients.push_back(bench.Draw(k, 1, 0.05));
    const Adapter next = *bench.Round(clients), own = bench.Trained(clients[0]);
    return std::equal(next.values().begin(), next.values().end(), own.values().begin());
  };
  EXPECT_TRUE(round("product"));
  EXPECT_FALSE(round("delta"));
}

TEST(KrumTest, Finish_SameBitsOnAnyNumberOfThreads) {
  const RuleBench bench = Bench(R"({"m": 2, "distance": "product"})");
  std::vector<Client> clients;
  for (uint64_t k = 0; k < 6; ++k) clients.push_back(bench.Draw(k));
  EXPECT_EQ(bench.Round(clients, 1, 3)->ContentHash(), bench.Round(clients)->ContentHash());
}

TEST(KrumTest, Finish_TooFewUpdatesAreRefused) {
  const RuleBench bench = Bench("{}");
  const absl::Status status = bench.Round(OfValues(bench, {1, 2, 3, 4})).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("found 4 updates, expected at least 5"));
  EXPECT_EQ(bench.Round(OfValues(bench, {1, 2, 3, 4, 5})).status(), absl::OkStatus());
}

TEST(KrumTest, CheckJob_CohortsThatAreTooSmallAreRefused) {
  EXPECT_EQ(Bench("{}").CheckJob(), absl::OkStatus());
  EXPECT_THAT(Bench("{}", 4).CheckJob().message(), HasSubstr("round.min_updates: found 4, expected at least 5"));
  EXPECT_THAT(Bench(R"({"m": 6})").CheckJob().message(), HasSubstr("round.min_updates: found 5, expected at least 7"));
  RuleBench bench = Bench(R"({"f": 2})", 7);
  EXPECT_EQ(bench.CheckJob(), absl::OkStatus());
  bench.job().mutable_selection()->set_clients(6);
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("selection.clients: found 6, expected at least 7"));
}

TEST(KrumTest, CheckJob_ProductDistanceWithoutFactorsIsRefused) {
  RuleBench bench("krum", R"({"distance": "product"})",
                  *Layout::Create({{.name = "norm", .role = "ssf_scale", .shape = {4}}}));
  bench.job().mutable_round()->set_min_updates(5);
  EXPECT_THAT(bench.CheckJob().message(), HasSubstr("use distance: delta"));
  bench.Configure("{}");
  EXPECT_EQ(bench.CheckJob(), absl::OkStatus());
}

TEST(KrumTest, CheckJob_BadConfigIsRefusedByPath) {
  for (const char* bad : {R"({"f": -1})", R"({"m": 0})", R"({"distance": "cosine"})"}) {
    EXPECT_EQ(Bench(bad).CheckJob().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(Bench(bad).CheckJob().message(), HasSubstr("aggregator.config.")) << bad;
  }
}

TEST(KrumTest, Facts_AWrapperOnSingleUpdates) {
  const Facts facts = Bench("{}").rule().facts();
  EXPECT_TRUE(facts.needs_single_updates && facts.wraps_rule);
  EXPECT_FALSE(facts.linear || facts.works_under_central_dp || facts.works_under_secure_aggregation);
}

}  // namespace
}  // namespace weft::aggregators
