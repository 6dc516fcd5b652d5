#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/testing/rule_bench.h"

namespace weft::aggregators {
namespace {

using testing::Client;
using testing::Filled;
using ::testing::HasSubstr;
using testing::RuleBench;

constexpr char kUnpaired[] = R"({"allow_unpaired_factors": true})";

TEST(MedianTest, Conformance_AllLawsHold) {
  testing::ExpectLawsHoldInEveryEncoding(RuleBench("median", kUnpaired).Subject());
}

TEST(MedianTest, Conformance_AllLawsHoldWithoutFactors) {
  conformance::Subject subject = RuleBench("median").Subject();
  subject.layout = *Layout::Create(
      {{.name = "norm", .role = "ssf_scale", .shape = {9}}, {.name = "classifier.bias", .role = "head", .shape = {3}}});
  subject.other = subject.job;
  *subject.other->mutable_aggregator()->mutable_config() = RuleBench::Parsed(kUnpaired);
  testing::ExpectLawsHoldInEveryEncoding(subject);
}

TEST(MedianTest, Finish_TakesEachCoordinateByItself) {
  RuleBench bench("median", "{}", *Layout::Create({{.name = "x", .role = "head", .shape = {3}}}));
  bench.start() = Filled(bench.layout(), 10);
  const float values[3][3] = {{1, 900, -5}, {2, 7, -4}, {800, 6, -700}};
  std::vector<Client> clients;
  for (int k = 0; k < 3; ++k) {
    clients.push_back({std::string(1, static_cast<char>('a' + k)), 1, Adapter(bench.layout())});
    std::copy_n(values[k], 3, clients.back().delta.values().begin());
  }
  EXPECT_THAT(bench.Round(clients)->values(), ::testing::ElementsAre(12, 17, 5));
  clients.pop_back();  // of two, the mean
  EXPECT_THAT(bench.Round(clients)->values(), ::testing::ElementsAre(11.5, 463.5, 5.5));
}

TEST(MedianTest, Finish_CountsOfExamplesDoNotMatter) {
  RuleBench bench("median", kUnpaired);
  const auto layout = bench.SentOf();
  const auto next =
      bench.Round({{"a", 1, Filled(layout, 1)}, {"b", 1, Filled(layout, 2)}, {"c", 1 << 30, Filled(layout, 9)}});
  EXPECT_EQ(next->values()[0], bench.start().values()[0] + 2);
}

TEST(MedianTest, Finish_AFifthOfHostileClientsCannotLeaveTheRangeOfTheHonest) {
  RuleBench bench("median", kUnpaired);
  std::vector<Client> clients;
  for (uint64_t k = 0; k < 8; ++k) clients.push_back(bench.Draw(k));
  for (uint64_t k = 8; k < 10; ++k) clients.push_back(bench.Draw(k, 1, 1e4));
  const Adapter next = *bench.Round(clients);
  for (size_t i = 0; i < next.values().size(); ++i) {
    float lowest = 1e9f, highest = -1e9f;
    for (size_t k = 0; k < 8; ++k) {
      lowest = std::min(lowest, clients[k].delta.values()[i]);
      highest = std::max(highest, clients[k].delta.values()[i]);
    }
    EXPECT_GE(next.values()[i], bench.start().values()[i] + lowest);
    EXPECT_LE(next.values()[i], bench.start().values()[i] + highest);
  }
}

TEST(MedianTest, Finish_OneUpdateComesBack) {
  RuleBench bench("median", kUnpaired);
  const Client client = bench.Draw(4);
  const Adapter next = *bench.Round({client}), trained = bench.Trained(client);
  EXPECT_THAT(next.values(), ::testing::ElementsAreArray(trained.values()));
}

TEST(MedianTest, CheckJob_FactorsSentTogetherAreRefused) {
  EXPECT_THAT(RuleBench("median").CheckJob().message(), HasSubstr("use ffa_lora or rolora inside"));
  EXPECT_EQ(RuleBench("median", kUnpaired).CheckJob(), absl::OkStatus());
}

TEST(MedianTest, CheckJob_UnknownKeyIsRefused) {
  EXPECT_THAT(RuleBench("median", R"({"beta": 1})").CheckJob().message(), HasSubstr("beta"));
}

TEST(MedianTest, Facts_AWrapperOnSingleUpdates) {
  const Facts facts = RuleBench("median").rule().facts();
  EXPECT_TRUE(facts.needs_single_updates && facts.wraps_rule);
  EXPECT_FALSE(facts.linear || facts.works_under_central_dp || facts.works_under_secure_aggregation ||
               facts.finishes_from_mean);
}

}  // namespace
}  // namespace weft::aggregators
