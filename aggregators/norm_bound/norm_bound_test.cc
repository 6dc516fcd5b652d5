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

std::shared_ptr<const Layout> FourValues() { return *Layout::Create({{.name = "x", .role = "head", .shape = {4}}}); }

double NormOf(std::span<const float> values) {
  double sum = 0;
  for (const float x : values) sum += static_cast<double>(x) * x;
  return std::sqrt(sum);
}

TEST(NormBoundTest, Conformance_AllLawsHold) {
  conformance::Subject subject = RuleBench("norm_bound").Subject();
  subject.other = subject.job;
  *subject.other->mutable_aggregator()->mutable_config() = RuleBench::Parsed(R"({"max_norm": 2})");
  testing::ExpectLawsHoldInEveryEncoding(subject);
}

TEST(NormBoundTest, Finish_OnlyLongDeltasAreScaled) {
  RuleBench bench("norm_bound", R"({"max_norm": 2})", FourValues());
  bench.start() = Filled(bench.layout(), 0);
  // Norms 4 and 1: 2 becomes 1, 0.5 stays.
  const auto next = bench.Round({{"a", 1, Filled(bench.layout(), 2)}, {"b", 1 << 30, Filled(bench.layout(), 0.5)}});
  ASSERT_TRUE(next.ok()) << next.status();
  for (const float x : next->values()) EXPECT_EQ(x, 0.75f);
}

TEST(NormBoundTest, Finish_WithinTheBoundItIsThePlainMean) {
  RuleBench bench("norm_bound", R"({"max_norm": 1e6})"), plain("fedavg", R"({"weights": {"by": "uniform"}})");
  std::vector<Client> clients;
  for (uint64_t k = 0; k < 5; ++k) clients.push_back(bench.Draw(k, 1 + k));
  EXPECT_EQ(bench.Round(clients)->ContentHash(), plain.Round(clients)->ContentHash());
}

TEST(NormBoundTest, Finish_HostileClientsMoveTheMeanByTheBoundAtMost) {
  RuleBench bench("norm_bound", R"({"max_norm": 3})");
  bench.start() = Filled(bench.layout(), 0);
  std::vector<Client> clients;
  for (uint64_t k = 0; k < 10; ++k)
    clients.push_back({absl::StrCat(k), 1, Filled(bench.SentOf(), k < 8 ? 0.01f : 6e4f)});
  const Adapter next = *bench.Round(clients);
  EXPECT_LT(NormOf(next.values()), 0.2 * 3 * (1 + 1e-6) + NormOf(clients[0].delta.values()));
}

TEST(NormBoundTest, Accumulate_GroupsGiveTheSameBits) {
  RuleBench bench("norm_bound");
  std::vector<Client> clients;
  for (uint64_t k = 0; k < 6; ++k) clients.push_back(bench.Draw(k, 1, k % 2 == 0 ? 0.01 : 5));
  const auto together = bench.Fresh();
  std::vector<EncodedUpdate> tensors;
  std::vector<ClientUpdate> updates;
  for (const Client& client : clients) tensors.push_back(EncodedUpdate::View(client.delta));
  for (size_t k = 0; k < clients.size(); ++k) updates.push_back({clients[k].id, 1, tensors[k]});
  ASSERT_EQ(together->Accumulate(updates), absl::OkStatus());
  EXPECT_EQ(together->count(), 6);
  EXPECT_EQ(std::move(*together).Finish()->ContentHash(), bench.Round(clients)->ContentHash());
}

TEST(NormBoundTest, FinishFromMean_BoundsTheMean) {
  RuleBench bench("norm_bound", R"({"max_norm": 2})", FourValues());
  bench.start() = Filled(bench.layout(), 0);
  EXPECT_EQ(std::move(*bench.Fresh()).FinishFromMean(Filled(bench.layout(), 100), 3)->values()[0], 1);
  EXPECT_EQ(std::move(*bench.Fresh()).FinishFromMean(Filled(bench.layout(), 0.5), 3)->values()[0], 0.5);
}

TEST(NormBoundTest, MemoryBytes_DoesNotGrowWithTheCohort) {
  RuleBench bench("norm_bound");
  EXPECT_EQ(bench.rule().MemoryBytes(bench.job(), *bench.layout(), 1),
            bench.rule().MemoryBytes(bench.job(), *bench.layout(), 1'000'000));
}

TEST(NormBoundTest, CheckJob_RefusesByPath) {
  EXPECT_EQ(RuleBench("norm_bound").CheckJob(), absl::OkStatus());
  EXPECT_THAT(RuleBench("norm_bound", R"({"max_norm": 0})").CheckJob().message(),
              HasSubstr("aggregator.config.max_norm"));
}

TEST(NormBoundTest, Facts_LinearAndInsideCentralDp) {
  const Facts facts = RuleBench("norm_bound").rule().facts();
  EXPECT_TRUE(facts.linear && facts.wraps_rule && facts.finishes_from_mean && facts.works_under_central_dp);
  // The coordinator must see each norm.
  EXPECT_FALSE(facts.works_under_secure_aggregation || facts.needs_single_updates);
}

}  // namespace
}  // namespace weft::aggregators
