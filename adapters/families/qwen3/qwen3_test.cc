#include "adapters/families/qwen3/qwen3.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/families/testing/describe.h"

namespace weft {
namespace {

using Json = nlohmann::json;

Json SmallConfig() {
  return {
      {"model_type", "qwen3"},    {"hidden_size", 8},        {"num_hidden_layers", 2}, {"num_attention_heads", 2},
      {"num_key_value_heads", 1}, {"intermediate_size", 16}, {"vocab_size", 64},       {"max_position_embeddings", 32}};
}

TEST(Qwen3Test, Describe_NormsOfHeads) {
  Json config = SmallConfig();
  config["head_dim"] = 6;
  const auto base = DescribeQwen3(config);
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->model_type, "qwen3");
  EXPECT_EQ(Text(base->linears[7]), "model.layers.1.self_attn.q_proj 12x8");
  ASSERT_EQ(base->norms.size(), 9u);
  EXPECT_EQ(base->norms[5].name, "model.layers.1.self_attn.q_norm");
  EXPECT_EQ(base->norms[6].name, "model.layers.1.self_attn.k_norm");
  EXPECT_EQ(base->norms[6].width, 6);
  EXPECT_EQ(base->transformer->layers[1].query_norm, 5);
  EXPECT_EQ(base->transformer->layers[1].key_norm, 6);
  EXPECT_EQ(base->transformer->layers[1].feed_forward_norm, 7);
  EXPECT_EQ(base->tasks.size(), 3u);
  EXPECT_EQ(Parameters(*base), 2432);  // Qwen3ForCausalLM.num_parameters()
}

TEST(Qwen3Test, Describe_Defaults) {
  Json config = SmallConfig();
  EXPECT_EQ(DescribeQwen3(config)->transformer->head_dim, 128);
  config.erase("num_key_value_heads");
  ExpectRefused(DescribeQwen3, config, "\"num_attention_heads\" 2 is not a multiple of \"num_key_value_heads\" 32");
}

TEST(Qwen3Test, Describe_Biases) {
  Json config = SmallConfig();
  EXPECT_FALSE(DescribeQwen3(config)->linears[0].bias);
  config["attention_bias"] = true;
  EXPECT_TRUE(DescribeQwen3(config)->linears[0].bias);
  EXPECT_TRUE(DescribeQwen3(config)->linears[3].bias);
  EXPECT_FALSE(DescribeQwen3(config)->linears[4].bias);
}

}  // namespace
}  // namespace weft
