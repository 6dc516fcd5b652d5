#include "adapters/families/llama/llama.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/families/testing/describe.h"

namespace weft {
namespace {

using ::testing::ElementsAre;
using Json = nlohmann::json;
using Read = TaskDescription::Read;

Json SmallConfig() {
  return {
      {"model_type", "llama"},    {"hidden_size", 8},        {"num_hidden_layers", 2}, {"num_attention_heads", 2},
      {"num_key_value_heads", 1}, {"intermediate_size", 16}, {"vocab_size", 64},       {"max_position_embeddings", 32}};
}

TEST(LlamaTest, Describe_ModulesOfALayer) {
  const auto base = DescribeLlama(SmallConfig());
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->model_type, "llama");
  EXPECT_EQ(base->prefix, "model.");
  std::vector<std::string> linears, norms;
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    for (const char* module :
         {"self_attn.q_proj 8x8", "self_attn.k_proj 4x8", "self_attn.v_proj 4x8", "self_attn.o_proj 8x8",
          "mlp.gate_proj 16x8", "mlp.up_proj 16x8", "mlp.down_proj 8x16"}) {
      linears.push_back(layer + module);
    }
    norms.push_back(layer + "input_layernorm");
    norms.push_back(layer + "post_attention_layernorm");
  }
  norms.push_back("model.norm");
  EXPECT_EQ(LinearTexts(*base), linears);
  EXPECT_EQ(NormNames(*base), norms);
  EXPECT_FALSE(base->norms[0].bias);
  EXPECT_EQ(base->transformer->layers[1].gate, 11);
  EXPECT_EQ(base->transformer->layers[1].attention_norm, 2);
  EXPECT_EQ(base->transformer->final_norm, 4);
  EXPECT_EQ(Parameters(*base), 2216);  // LlamaForCausalLM.num_parameters()
}

TEST(LlamaTest, Describe_Choices) {
  const Transformer transformer = *DescribeLlama(SmallConfig())->transformer;
  EXPECT_TRUE(transformer.causal && transformer.norm_first && transformer.rms_norm);
  EXPECT_EQ(transformer.heads, 2);
  EXPECT_EQ(transformer.key_heads, 1);
  EXPECT_EQ(transformer.head_dim, 4);
  EXPECT_EQ(transformer.norm_epsilon, 1e-6);
  EXPECT_EQ(transformer.activation, Activation::kSilu);
  EXPECT_EQ(transformer.rotary->rotated, 4);
  EXPECT_EQ(transformer.rotary->theta, 10000);
  EXPECT_EQ(transformer.word_embeddings, "model.embed_tokens");
  EXPECT_EQ(transformer.position_embeddings, "");
  EXPECT_EQ(transformer.sliding_window, 0);
}

TEST(LlamaTest, Describe_Biases) {
  Json config = SmallConfig();
  config["attention_bias"] = true;
  EXPECT_EQ(Text(DescribeLlama(config)->linears[3]), "model.layers.0.self_attn.o_proj 8x8+");
  EXPECT_EQ(Text(DescribeLlama(config)->linears[4]), "model.layers.0.mlp.gate_proj 16x8");
  config["mlp_bias"] = true;
  EXPECT_EQ(Text(DescribeLlama(config)->linears[6]), "model.layers.0.mlp.down_proj 8x16+");
  EXPECT_EQ(Parameters(*DescribeLlama(config)), 2344);
}

TEST(LlamaTest, Describe_HeadsAndTheirWidth) {
  Json config = SmallConfig();
  for (const Json& absent : {Json(), Json("erase")}) {  // as many as heads
    config["num_key_value_heads"] = absent;
    if (absent.is_string()) config.erase("num_key_value_heads");
    EXPECT_EQ(DescribeLlama(config)->transformer->key_heads, 2);
  }
  config["head_dim"] = 6;
  EXPECT_EQ(Text(DescribeLlama(config)->linears[0]), "model.layers.0.self_attn.q_proj 12x8");
  EXPECT_EQ(Text(DescribeLlama(config)->linears[3]), "model.layers.0.self_attn.o_proj 8x12");
  ExpectRefusedWith(DescribeLlama, config, "num_key_value_heads", 3,
                    "\"num_attention_heads\" 2 is not a multiple of \"num_key_value_heads\" 3");
  ExpectRefusedWith(DescribeLlama, config, "head_dim", 5, "heads have 5 dimensions, expected an even number");
  ExpectRefusedWith(DescribeLlama, config, "head_dim", 1 << 30,
                    "\"num_attention_heads\" 2 of 1073741824 each are over");
}

TEST(LlamaTest, Describe_TasksAndTheHeadOverTheVocabulary) {
  Json config = SmallConfig();
  const BaseDescription base = *DescribeLlama(config);
  ASSERT_EQ(base.tasks.size(), 3u);
  EXPECT_EQ(base.tasks.at("sequence_classification").read, Read::kLast);
  EXPECT_THAT(HeadTexts(base.tasks.at("sequence_classification")), ElementsAre("score 0x8"));
  EXPECT_EQ(base.tasks.at("causal_lm").read, Read::kEach);
  EXPECT_EQ(base.tasks.at("causal_lm").peft_task_type, "CAUSAL_LM");
  EXPECT_EQ(base.tasks.at("sentence_embedding").read, Read::kMean);
  EXPECT_EQ(base.transformer->lm_head, "lm_head");
  config["tie_word_embeddings"] = true;
  EXPECT_EQ(DescribeLlama(config)->transformer->lm_head, "");
  EXPECT_THAT(DescribeLlama(config)->transformer->ignored, testing::Contains("lm_head."));
}

TEST(LlamaTest, Describe_Refuses) {
  ExpectSizesRefused(DescribeLlama, SmallConfig(),
                     {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
                      "max_position_embeddings"});
  ExpectRefusedWith(DescribeLlama, SmallConfig(), "pretraining_tp", 2, "\"pretraining_tp\" must be 1");
  ExpectRefusedWith(DescribeLlama, SmallConfig(), "attention_bias", 1, "\"attention_bias\" must be true or false");
  ExpectRefusedWith(DescribeLlama, SmallConfig(), "mlp_bias", "no", "\"mlp_bias\" must be true or false");
  ExpectRefusedWith(DescribeLlama, SmallConfig(), "rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2}},
                    "\"rope_type\" must be default, linear, llama3 or yarn, found \"dynamic\"");
}

}  // namespace
}  // namespace weft
