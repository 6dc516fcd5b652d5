#include "simulation/report/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weft::simulation {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

std::vector<TableRun> Runs() {
  return {{{{"job.aggregator.name", "fedavg"}, {"job.seed", "1"}},
           {{"final_accuracy", 0.5}, {"bytes_up", 10}, {"clients", {{"worst_tenth", 0.2}}}}},
          {{{"job.aggregator.name", "fedavg"}, {"job.seed", "2"}}, {{"final_accuracy", 0.7}, {"bytes_up", 10}}},
          {{{"job.aggregator.name", "{\"name\":\"dp\"}"}, {"job.seed", "1"}}, {{"bytes_up", 20}}}};
}

TEST(TableTest, RunsThatDifferInTheirSeedShareALine) {
  const Json table = TableOf(Runs());
  ASSERT_EQ(table.size(), 2);
  EXPECT_EQ(table[0]["runs"], 2);
  EXPECT_NEAR(table[0]["final_accuracy"]["mean"], 0.6, 1e-12);
  EXPECT_NEAR(table[0]["final_accuracy"]["sd"], 0.1414213562, 1e-9);
  EXPECT_EQ(table[0]["worst_tenth"]["mean"], 0.2);
  EXPECT_EQ(table[0]["worst_tenth"]["runs"], 1) << "of the two";
  EXPECT_EQ(table[0]["final_accuracy"]["runs"], 2);
  EXPECT_FALSE(table[0]["worst_tenth"].contains("sd"));
  EXPECT_FALSE(table[1].contains("final_accuracy"));
  EXPECT_FALSE(table[0]["settings"].contains("job.seed"));
}

TEST(TableTest, Csv) {
  const std::string csv = TableCsv(TableOf(Runs()));
  EXPECT_THAT(csv, HasSubstr("job.aggregator.name,runs,final_accuracy_mean,final_accuracy_sd,final_accuracy_runs,"));
  EXPECT_THAT(csv, testing::ContainsRegex("\nfedavg,2,0\\.6,0\\.1414[0-9]*,2,"));
  EXPECT_THAT(csv, HasSubstr("\ndp,1,,,,"));
}

TEST(TableTest, Text) {
  const std::string text = TableText(TableOf(Runs()));
  EXPECT_THAT(text, HasSubstr("aggregator=fedavg     2  0.6000 +- 0.1414"));
  EXPECT_THAT(TableText(TableOf({{{{"job.seed", "1"}}, {{"final_accuracy", 0.5}}}})), HasSubstr("all"));
}

}  // namespace
}  // namespace weft::simulation
