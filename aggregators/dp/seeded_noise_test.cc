// In a process that has not allowed seeded noise, as a coordinator hasn't.
#include "aggregators/core/seeded_noise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aggregators/core/testing/rule_bench.h"

namespace weft::aggregators {
namespace {

using ::testing::HasSubstr;
using testing::RuleBench;

std::string Config(const std::string& noise) {
  return absl::StrCat(R"({"clip_norm": 1, "noise_multiplier": 1, "epsilon_budget": 9, "delta": 1e-5, "clients": 10, )",
                      noise, "}");
}

TEST(SeededNoiseTest, RefusedUntilTheProcessAllowsIt) {
  RuleBench seeded("dp", Config(R"("noise": "seeded", "for_tests": true)"));
  ASSERT_FALSE(SeededNoiseAllowed());
  EXPECT_THAT(seeded.CheckJob().message(), HasSubstr("only tests and simulations take, expected secure"));
  EXPECT_FALSE(seeded.rule().Create(seeded.job(), {.global = &seeded.start()}).ok());
  EXPECT_EQ(RuleBench("dp", Config(R"("noise": "secure")")).CheckJob(), absl::OkStatus());
  AllowSeededNoise();
  EXPECT_EQ(seeded.CheckJob(), absl::OkStatus());
}

TEST(SeededNoiseTest, MustBeSaidTwice) {
  EXPECT_THAT(RuleBench("dp", Config(R"("noise": "seeded")")).CheckJob().message(),
              HasSubstr("found seeded without for_tests: true"));
  EXPECT_THAT(RuleBench("dp", Config(R"("for_tests": true)")).CheckJob().message(),
              HasSubstr("for_tests: has no effect with noise: secure"));
}

}  // namespace
}  // namespace weft::aggregators
