#include "adapters/families/rotary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace weft {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
using Scaling = RotaryPositions::Scaling;

void ExpectRefused(const Json& config, const std::string& why, int64_t head_dim = 8) {
  const absl::Status status = ReadRotary(config, head_dim, 64).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
  EXPECT_THAT(std::string(status.message()), HasSubstr(why));
}

Json With(Json parameters, const char* key, Json value) {
  parameters[key] = std::move(value);
  return {{"rope_parameters", parameters}};
}

const Json kLlama3 = {{"rope_type", "llama3"}, {"rope_theta", 5e5},     {"factor", 8},
                      {"low_freq_factor", 1},  {"high_freq_factor", 4}, {"original_max_position_embeddings", 32}};
const Json kYarn = {{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 16}};

TEST(RotaryTest, Read_PlainByDefault) {
  const auto rotary = ReadRotary(Json::object(), 8, 64);
  ASSERT_TRUE(rotary.ok()) << rotary.status();
  EXPECT_EQ(rotary->theta, 10000);
  EXPECT_EQ(rotary->rotated, 8);
  EXPECT_EQ(rotary->scaling, Scaling::kNone);
  const Json absent = {{"rope_scaling", nullptr}, {"rope_parameters", Json::object()}};
  EXPECT_EQ(ReadRotary(absent, 8, 64)->scaling, Scaling::kNone);
}

TEST(RotaryTest, Read_ThetaOfParametersGoesBeforeTheConfigs) {
  EXPECT_EQ(ReadRotary({{"rope_theta", 1e6}}, 8, 64)->theta, 1e6);
  EXPECT_EQ(ReadRotary({{"rope_theta", 1e6}, {"rope_parameters", {{"rope_theta", 5e5}}}}, 8, 64)->theta, 5e5);
  for (const Json& bad : {Json(0), Json(-1), Json("big"), Json(1e16)}) {
    ExpectRefused({{"rope_theta", bad}}, "\"rope_theta\" must be a number above 0, up to 1e+15");
  }
  ExpectRefused({{"rope_theta", 1}}, "\"rope_theta\" must be above 1, found 1");
}

TEST(RotaryTest, Read_OlderKeyAndOlderName) {
  const Json config = {{"rope_theta", 5e5},
                       {"rope_scaling", {{"type", "linear"}, {"factor", 2.5}}},
                       {"rope_parameters", {{"rope_type", "default"}}}};
  const RotaryPositions rotary = *ReadRotary(config, 8, 64);
  EXPECT_EQ(rotary.scaling, Scaling::kLinear);
  EXPECT_EQ(rotary.factor, 2.5);
  EXPECT_EQ(rotary.theta, 5e5);
}

TEST(RotaryTest, Read_Llama3) {
  const RotaryPositions rotary = *ReadRotary({{"rope_parameters", kLlama3}}, 8, 64);
  EXPECT_EQ(rotary.scaling, Scaling::kLlama3);
  EXPECT_EQ(rotary.theta, 5e5);
  EXPECT_EQ(rotary.factor, 8);
  EXPECT_EQ(rotary.low_frequency_factor, 1);
  EXPECT_EQ(rotary.high_frequency_factor, 4);
  EXPECT_EQ(rotary.original_max_positions, 32);
  EXPECT_EQ(ReadRotary(With(kLlama3, "original_max_position_embeddings", nullptr), 8, 64)->original_max_positions, 64);
  Json both = {{"rope_parameters", kLlama3}, {"original_max_position_embeddings", 48}};
  EXPECT_EQ(ReadRotary(both, 8, 64)->original_max_positions, 48);
}

TEST(RotaryTest, Read_RefusesBadLlama3) {
  for (const char* key : {"factor", "low_freq_factor", "high_freq_factor"}) {
    for (const Json& bad : {Json(0), Json("1"), Json()}) {
      ExpectRefused(With(kLlama3, key, bad), std::string("\"") + key + "\" must be a number above 0");
    }
  }
  ExpectRefused(With(kLlama3, "high_freq_factor", 1), "\"high_freq_factor\" 1 is not above \"low_freq_factor\" 1");
  ExpectRefused(With(kLlama3, "original_max_position_embeddings", 0), "\"original_max_position_embeddings\" must be");
}

TEST(RotaryTest, Read_Yarn) {
  const RotaryPositions rotary = *ReadRotary({{"rope_parameters", kYarn}}, 8, 64);
  EXPECT_EQ(rotary.scaling, Scaling::kYarn);
  EXPECT_EQ(rotary.factor, 4);
  EXPECT_EQ(rotary.original_max_positions, 16);
  EXPECT_EQ(rotary.beta_fast, 32);
  EXPECT_EQ(rotary.beta_slow, 1);
  EXPECT_DOUBLE_EQ(rotary.attention_factor, 0.1 * std::log(4) + 1);
  EXPECT_EQ(ReadRotary(With(kYarn, "attention_factor", 0.7), 8, 64)->attention_factor, 0.7);
  EXPECT_EQ(ReadRotary(With(kYarn, "beta_fast", 16), 8, 64)->beta_fast, 16);
  EXPECT_EQ(ReadRotary(With(kYarn, "beta_slow", 2), 8, 64)->beta_slow, 2);
  EXPECT_EQ(ReadRotary(With(kYarn, "factor", nullptr), 8, 128)->factor, 8);  // 128 / 16
  EXPECT_EQ(ReadRotary(With(kYarn, "factor", 0.5), 8, 64)->attention_factor, 1);
  EXPECT_TRUE(ReadRotary(With(kYarn, "truncate", true), 8, 64).ok());
}

TEST(RotaryTest, Read_YarnByTwoScales) {
  Json parameters = kYarn;
  parameters["mscale"] = 0.7;
  EXPECT_DOUBLE_EQ(ReadRotary({{"rope_parameters", parameters}}, 8, 64)->attention_factor, 0.1 * std::log(4) + 1);
  parameters["mscale_all_dim"] = 0.5;
  EXPECT_DOUBLE_EQ(ReadRotary({{"rope_parameters", parameters}}, 8, 64)->attention_factor,
                   (0.07 * std::log(4) + 1) / (0.05 * std::log(4) + 1));
}

TEST(RotaryTest, Read_RefusesBadYarn) {
  ExpectRefused(With(kYarn, "truncate", false), "\"truncate\" must be true");
  ExpectRefused(With(kYarn, "beta_fast", 0.5), "\"beta_fast\" 0.5 is below \"beta_slow\" 1");
  for (const char* key : {"factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"}) {
    ExpectRefused(With(kYarn, key, "1"), std::string("\"") + key + "\" must be a number");
    ExpectRefused(With(kYarn, key, -1), std::string("\"") + key + "\" must be a number");
  }
  Json parameters = kYarn;
  parameters.erase("factor");
  ExpectRefused({{"rope_parameters", parameters}}, "\"factor\" must be a number above 0, up to 1e+06, found nothing");
}

TEST(RotaryTest, Read_RefusesOthers) {
  for (const Json& type : {Json("dynamic"), Json("longrope"), Json("proportional"), Json(3), Json()}) {
    ExpectRefused(With({{"factor", 2}}, "rope_type", type),
                  "\"rope_type\" must be default, linear, llama3 or yarn, found " + type.dump());
  }
  ExpectRefused({{"rope_scaling", {{"type", "linear"}}}}, "\"factor\" must be a number above 0");
  ExpectRefused({{"rope_scaling", "linear"}}, "\"rope_scaling\" must be an object, found \"linear\"");
  ExpectRefused({{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}},
                "\"rope_parameters\" differs by layer");
  ExpectRefused({{"partial_rotary_factor", 0.5}}, "\"partial_rotary_factor\" must be 1");
  ExpectRefused(With(Json::object(), "partial_rotary_factor", 0.5), "\"partial_rotary_factor\" must be 1");
  ExpectRefused(Json::object(), "heads have 7 dimensions, expected an even number", 7);
}

}  // namespace
}  // namespace weft
