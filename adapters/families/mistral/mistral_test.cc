#include "adapters/families/mistral/mistral.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/families/testing/describe.h"

namespace weft {
namespace {

using Json = nlohmann::json;

Json SmallConfig() {
  return {
      {"model_type", "mistral"},  {"hidden_size", 8},        {"num_hidden_layers", 2}, {"num_attention_heads", 2},
      {"num_key_value_heads", 1}, {"intermediate_size", 16}, {"vocab_size", 64},       {"max_position_embeddings", 32}};
}

TEST(MistralTest, Describe_Modules) {
  const auto base = DescribeMistral(SmallConfig());
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->model_type, "mistral");
  EXPECT_EQ(base->linears.size(), 14u);
  EXPECT_EQ(Text(base->linears[8]), "model.layers.1.self_attn.k_proj 4x8");
  EXPECT_EQ(base->tasks.size(), 3u);
  EXPECT_EQ(Parameters(*base), 2216);  // MistralForCausalLM.num_parameters()
}

TEST(MistralTest, Describe_Window) {
  Json config = SmallConfig();
  EXPECT_EQ(DescribeMistral(config)->transformer->sliding_window, 0);  // 4096 are more than positions
  config["sliding_window"] = 5;
  EXPECT_EQ(DescribeMistral(config)->transformer->sliding_window, 5);
  config["sliding_window"] = nullptr;
  config["max_position_embeddings"] = 8192;
  EXPECT_EQ(DescribeMistral(config)->transformer->sliding_window, 0);
  config.erase("sliding_window");
  EXPECT_EQ(DescribeMistral(config)->transformer->sliding_window, 4096);
  ExpectRefusedWith(DescribeMistral, config, "sliding_window", 0, "\"sliding_window\" must be an integer from 1");
}

TEST(MistralTest, Describe_KeyHeadsAreEightWhereTheConfigDoesNotSay) {
  Json config = SmallConfig();
  config.erase("num_key_value_heads");
  ExpectRefused(DescribeMistral, config, "\"num_attention_heads\" 2 is not a multiple of \"num_key_value_heads\" 8");
  config["num_attention_heads"] = 16;
  config["hidden_size"] = 64;
  EXPECT_EQ(DescribeMistral(config)->transformer->key_heads, 8);
  config["num_key_value_heads"] = nullptr;
  EXPECT_EQ(DescribeMistral(config)->transformer->key_heads, 16);
}

}  // namespace
}  // namespace weft
