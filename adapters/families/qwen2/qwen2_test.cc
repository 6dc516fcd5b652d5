#include "adapters/families/qwen2/qwen2.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/families/testing/describe.h"

namespace weft {
namespace {

using Json = nlohmann::json;

Json SmallConfig() {
  return {
      {"model_type", "qwen2"},    {"hidden_size", 8},        {"num_hidden_layers", 2}, {"num_attention_heads", 2},
      {"num_key_value_heads", 1}, {"intermediate_size", 16}, {"vocab_size", 64},       {"max_position_embeddings", 32}};
}

TEST(Qwen2Test, Describe_BiasesOfQueryKeyAndValue) {
  const auto base = DescribeQwen2(SmallConfig());
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->model_type, "qwen2");
  EXPECT_THAT(LinearTexts(*base), testing::IsSupersetOf({
                                      "model.layers.1.self_attn.q_proj 8x8+",
                                      "model.layers.1.self_attn.k_proj 4x8+",
                                      "model.layers.1.self_attn.v_proj 4x8+",
                                      "model.layers.1.self_attn.o_proj 8x8",
                                      "model.layers.1.mlp.up_proj 16x8",
                                  }));
  EXPECT_EQ(base->tasks.size(), 3u);
  EXPECT_EQ(Parameters(*base), 2248);  // Qwen2ForCausalLM.num_parameters()
}

TEST(Qwen2Test, Describe_Window) {
  Json config = SmallConfig();
  config["sliding_window"] = 5;
  EXPECT_EQ(DescribeQwen2(config)->transformer->sliding_window, 0);
  config["use_sliding_window"] = true;
  EXPECT_EQ(DescribeQwen2(config)->transformer->sliding_window, 0);  // from layer 28
  config["max_window_layers"] = 0;
  EXPECT_EQ(DescribeQwen2(config)->transformer->sliding_window, 5);
  config["max_window_layers"] = 2;
  config["layer_types"] = {"sliding_attention", "sliding_attention"};
  EXPECT_EQ(DescribeQwen2(config)->transformer->sliding_window, 5);
  config["layer_types"] = {"full_attention", "full_attention"};
  EXPECT_EQ(DescribeQwen2(config)->transformer->sliding_window, 0);
  config["layer_types"] = {"full_attention", "sliding_attention"};
  config["sliding_window"] = 32;  // a whole row
  EXPECT_EQ(DescribeQwen2(config)->transformer->sliding_window, 0);
}

TEST(Qwen2Test, Describe_RefusesWindowsThatDifferByLayer) {
  Json config = SmallConfig();
  config["sliding_window"] = 5;
  config["use_sliding_window"] = true;
  ExpectRefusedWith(DescribeQwen2, config, "max_window_layers", 1, "\"sliding_window\" 5 is for 1 of 2 layers");
  ExpectRefusedWith(DescribeQwen2, config, "layer_types", {"full_attention", "sliding_attention"},
                    "\"sliding_window\" 5 is for 1 of 2 layers");
  for (const Json& bad : {Json("full_attention"), Json({"full_attention"}), Json({"full_attention", "chunked"}),
                          Json({{"a", "full_attention"}, {"b", "full_attention"}})}) {
    ExpectRefusedWith(DescribeQwen2, config, "layer_types", bad,
                      "\"layer_types\" must list 2 times full_attention or sliding_attention");
  }
  config["layer_types"] = {"sliding_attention", "sliding_attention"};
  ExpectRefusedWith(DescribeQwen2, config, "use_sliding_window", false, "but there is no \"sliding_window\"");
  config.erase("layer_types");
  ExpectRefusedWith(DescribeQwen2, config, "max_window_layers", -1, "\"max_window_layers\" must be an integer");
  ExpectRefusedWith(DescribeQwen2, config, "use_sliding_window", "yes", "\"use_sliding_window\" must be true or false");
}

}  // namespace
}  // namespace weft
