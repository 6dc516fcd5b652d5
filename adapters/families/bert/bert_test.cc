#include "adapters/families/bert/bert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weft {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json SmallConfig() {
  return {{"model_type", "bert"},    {"hidden_size", 8}, {"num_hidden_layers", 2},        {"num_attention_heads", 2},
          {"intermediate_size", 16}, {"vocab_size", 64}, {"max_position_embeddings", 32}, {"type_vocab_size", 2}};
}

void ExpectRefused(const Json& config, const std::string& why) {
  const absl::Status status = DescribeBert(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
  EXPECT_THAT(std::string(status.message()), HasSubstr(why));
}

TEST(BertTest, Describe_LinearsInLayerOrderThenThePooler) {
  const auto base = DescribeBert(SmallConfig());
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->model_type, "bert");
  EXPECT_EQ(base->hidden_size, 8);
  EXPECT_EQ(base->config, SmallConfig());
  std::vector<std::string> found;
  for (const LinearModule& module : base->linears) {
    found.push_back(module.name + " " + std::to_string(module.out_features) + "x" + std::to_string(module.in_features));
  }
  std::vector<std::string> expected;
  for (const std::string layer : {"bert.encoder.layer.0.", "bert.encoder.layer.1."}) {
    for (const char* module : {"attention.self.query 8x8", "attention.self.key 8x8", "attention.self.value 8x8",
                               "attention.output.dense 8x8", "intermediate.dense 16x8", "output.dense 8x16"}) {
      expected.push_back(layer + module);
    }
  }
  expected.push_back("bert.pooler.dense 8x8");
  EXPECT_EQ(found, expected);
}

TEST(BertTest, Describe_InitializerRange) {
  Json config = SmallConfig();
  EXPECT_EQ(DescribeBert(config)->initializer_range, 0.02);
  config["initializer_range"] = 0.5;
  EXPECT_EQ(DescribeBert(config)->initializer_range, 0.5);
  for (const Json& bad : {Json("big"), Json(-0.1), Json(1e7), Json()}) {
    config["initializer_range"] = bad;
    ExpectRefused(config, "\"initializer_range\" must be a number from 0 to 1e+06, found " + bad.dump());
  }
}

TEST(BertTest, Describe_RefusesMissingAndBadSizes) {
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
                          "max_position_embeddings", "type_vocab_size"}) {
    Json config = SmallConfig();
    config.erase(key);
    ExpectRefused(config, std::string(key) + "\" must be an integer from 1 to");
    for (const Json& bad : {Json(0), Json(-1), Json(1.5), Json("8"), Json(~0ull), Json((1ll << 30) + 1), Json()}) {
      config[key] = bad;
      ExpectRefused(config, std::string(key) + "\" must be an integer from 1 to");
      ExpectRefused(config, "found " + bad.dump());
    }
  }
}

TEST(BertTest, Describe_LayersAreBounded) {
  Json config = SmallConfig();
  config["num_hidden_layers"] = 10'001;
  ExpectRefused(config, "from 1 to 10000, found 10001");
}

TEST(BertTest, Describe_RefusesHeadsThatDoNotDivide) {
  Json config = SmallConfig();
  config["num_attention_heads"] = 3;
  ExpectRefused(config, "\"hidden_size\" 8 is not a multiple of \"num_attention_heads\" 3");
}

}  // namespace
}  // namespace weft
