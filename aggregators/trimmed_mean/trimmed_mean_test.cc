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

std::shared_ptr<const Layout> OneValue() { return *Layout::Create({{.name = "x", .role = "head", .shape = {1}}}); }

// The step from 0 that clients of these values lead to.
float StepOf(const std::string& config, const std::vector<float>& values) {
  RuleBench bench("trimmed_mean", config, OneValue());
  bench.start() = Filled(bench.layout(), 0);
  std::vector<Client> clients;
  for (size_t k = 0; k < values.size(); ++k) clients.push_back({absl::StrCat(k), 1, Filled(bench.layout(), values[k])});
  return bench.Round(clients)->values()[0];
}

TEST(TrimmedMeanTest, Conformance_AllLawsHold) {
  conformance::Subject subject = RuleBench("trimmed_mean", kUnpaired).Subject();
  subject.other = subject.job;
  *subject.other->mutable_aggregator()->mutable_config() =
      RuleBench::Parsed(R"({"allow_unpaired_factors": true, "beta": 0.4})");
  testing::ExpectLawsHoldInEveryEncoding(subject);
}

TEST(TrimmedMeanTest, Finish_LeavesOutTheExtremesAtBothEnds) {
  EXPECT_EQ(StepOf("{}", {1000, 1, -100, 2, 6}), 3);
  EXPECT_EQ(StepOf(R"({"beta": 0.4})", {1000, 1, -100, 2, 6}), 2);
  EXPECT_EQ(StepOf(R"({"beta": 0})", {1000, 1, -100, 2, 7}), 182);
  EXPECT_EQ(StepOf("{}", {8, 1, 2, 1}), 3);  // floor(0.2 * 4) is 0
  EXPECT_EQ(StepOf("{}", {8}), 8);
}

TEST(TrimmedMeanTest, Finish_DecimalFractionsCountAsWritten) {
  // 0.29 * 100 is 28.999999999999996 in binary.
  std::vector<float> values(100, 5);
  std::fill_n(values.begin(), 29, 1000.0f);
  EXPECT_EQ(StepOf(R"({"beta": 0.29})", values), 5);
  values[50] = 1000;  // one more than is left out
  EXPECT_GT(StepOf(R"({"beta": 0.29})", values), 5);
}

TEST(TrimmedMeanTest, Finish_AFifthOfHostileClientsIsLeftOut) {
  RuleBench bench("trimmed_mean", kUnpaired);
  std::vector<Client> clients;
  for (uint64_t k = 0; k < 8; ++k) clients.push_back(bench.Draw(k));
  for (uint64_t k = 8; k < 10; ++k) clients.push_back({absl::StrCat("hostile-", k), 1, Filled(bench.SentOf(), 6e4f)});
  const Adapter next = *bench.Round(clients);
  for (size_t i = 0; i < next.values().size(); ++i)
    EXPECT_LT(std::abs(next.values()[i] - bench.start().values()[i]), 4);
}

TEST(TrimmedMeanTest, CheckJob_RefusesByPath) {
  EXPECT_THAT(RuleBench("trimmed_mean").CheckJob().message(), HasSubstr("use ffa_lora or rolora inside"));
  EXPECT_EQ(RuleBench("trimmed_mean", kUnpaired).CheckJob(), absl::OkStatus());
  for (const char* bad : {"-0.1", "0.5", "1"}) {
    const RuleBench bench("trimmed_mean", absl::StrCat(R"({"beta": )", bad, "}"));
    EXPECT_THAT(bench.CheckJob().message(), HasSubstr("aggregator.config.beta")) << bad;
  }
}

TEST(TrimmedMeanTest, Facts_AWrapperOnSingleUpdates) {
  const Facts facts = RuleBench("trimmed_mean").rule().facts();
  EXPECT_TRUE(facts.needs_single_updates && facts.wraps_rule);
  EXPECT_FALSE(facts.linear || facts.works_under_central_dp || facts.works_under_secure_aggregation);
}

}  // namespace
}  // namespace weft::aggregators
