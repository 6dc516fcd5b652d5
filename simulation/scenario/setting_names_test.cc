#include "simulation/scenario/setting_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weft::simulation {
namespace {

using ::testing::ElementsAre;

TEST(SettingNamesTest, AreAsShortAsTellsThemApart) {
  EXPECT_THAT(ShortNames({"job.aggregator.name", "job.seed"}), ElementsAre("aggregator", "seed"));
  EXPECT_THAT(ShortNames({"job.seed", "population.seed", "job.training.epochs"}),
              ElementsAre("job.seed", "population.seed", "epochs"));
  EXPECT_THAT(ShortNames({"seed", "job.seed"}), ElementsAre("seed", "job.seed"));
  EXPECT_THAT(ShortNames({"job.aggregator.name", "job.aggregator.config.rule.name"}),
              ElementsAre("aggregator", "rule"));
}

TEST(SettingNamesTest, ValuesInOneLine) {
  EXPECT_EQ(ShortValue("fedavg"), "fedavg");
  EXPECT_EQ(ShortValue("0.5"), "0.5");
  EXPECT_EQ(ShortValue(R"({"name": "fedavg"})"), "fedavg");
  EXPECT_EQ(ShortValue(R"({"name": "krum", "config": {"f": 1, "rule": {"name": "ffa_lora", "config": {"a": 2}}}})"),
            "krum f=1 rule=(ffa_lora a=2)");
  EXPECT_EQ(ShortValue(R"({"kind": "invert"})"), "kind=invert");
}

}  // namespace
}  // namespace weft::simulation
