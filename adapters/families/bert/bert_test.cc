#include "adapters/families/bert/bert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/families/testing/describe.h"

namespace weft {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Json = nlohmann::json;
using Read = TaskDescription::Read;

Json SmallConfig() {
  return {{"model_type", "bert"},    {"hidden_size", 8}, {"num_hidden_layers", 2},        {"num_attention_heads", 2},
          {"intermediate_size", 16}, {"vocab_size", 64}, {"max_position_embeddings", 32}, {"type_vocab_size", 2}};
}

TEST(BertTest, Describe_ModulesInTheirOrder) {
  const auto base = DescribeBert(SmallConfig());
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->model_type, "bert");
  EXPECT_EQ(base->prefix, "bert.");
  EXPECT_EQ(base->hidden_size, 8);
  EXPECT_EQ(base->config, SmallConfig());
  std::vector<std::string> linears, norms = {"bert.embeddings.LayerNorm"};
  for (const std::string layer : {"bert.encoder.layer.0.", "bert.encoder.layer.1."}) {
    for (const char* module : {"attention.self.query 8x8+", "attention.self.key 8x8+", "attention.self.value 8x8+",
                               "attention.output.dense 8x8+", "intermediate.dense 16x8+", "output.dense 8x16+"}) {
      linears.push_back(layer + module);
    }
    norms.push_back(layer + "attention.output.LayerNorm");
    norms.push_back(layer + "output.LayerNorm");
  }
  linears.push_back("bert.pooler.dense 8x8+");
  EXPECT_EQ(LinearTexts(*base), linears);
  EXPECT_EQ(NormNames(*base), norms);
  EXPECT_EQ(base->linears[0].stored, "");
  EXPECT_EQ(Parameters(*base), 2072);  // BertModel.num_parameters()
}

TEST(BertTest, Describe_IndicesOfLayers) {
  const BaseDescription base = *DescribeBert(SmallConfig());
  const Transformer& transformer = *base.transformer;
  ASSERT_EQ(transformer.layers.size(), 2u);
  const TransformerLayer& layer = transformer.layers[1];
  EXPECT_EQ(layer.query, 6);
  EXPECT_EQ(layer.key, 7);
  EXPECT_EQ(layer.value, 8);
  EXPECT_EQ(layer.attention_output, 9);
  EXPECT_EQ(layer.up, 10);
  EXPECT_EQ(layer.down, 11);
  EXPECT_EQ(layer.attention_norm, 3);
  EXPECT_EQ(layer.feed_forward_norm, 4);
  for (const int none : {layer.query_key_value, layer.gate, layer.query_norm, layer.key_norm}) EXPECT_EQ(none, -1);
  EXPECT_EQ(transformer.embedding_norm, 0);
  EXPECT_EQ(transformer.final_norm, -1);
}

TEST(BertTest, Describe_Choices) {
  const Transformer transformer = *DescribeBert(SmallConfig())->transformer;
  EXPECT_EQ(transformer.head_dim, 4);
  EXPECT_EQ(transformer.key_heads, 2);
  EXPECT_EQ(transformer.max_positions, 32);
  EXPECT_EQ(transformer.position_embedding_rows, 32);
  EXPECT_EQ(transformer.first_position, 0);
  EXPECT_EQ(transformer.token_types, 2);
  EXPECT_EQ(transformer.norm_epsilon, 1e-12);
  EXPECT_EQ(transformer.activation, Activation::kGelu);
  EXPECT_FALSE(transformer.norm_first || transformer.rms_norm || transformer.causal);
  Json config = SmallConfig();
  config["layer_norm_eps"] = 1e-5;
  config["hidden_act"] = "gelu_new";
  EXPECT_EQ(DescribeBert(config)->transformer->norm_epsilon, 1e-5);
  EXPECT_EQ(DescribeBert(config)->transformer->activation, Activation::kGeluTanh);
}

TEST(BertTest, Describe_Tasks) {
  const BaseDescription base = *DescribeBert(SmallConfig());
  ASSERT_EQ(base.tasks.size(), 2u);
  const TaskDescription& classification = base.tasks.at("sequence_classification");
  EXPECT_EQ(classification.read, Read::kFirst);
  EXPECT_EQ(base.linears[classification.pooler].name, "bert.pooler.dense");
  EXPECT_THAT(HeadTexts(classification), ElementsAre("classifier 0x8+"));
  EXPECT_EQ(classification.peft_task_type, "SEQ_CLS");
  EXPECT_TRUE(classification.prefixed);
  const TaskDescription& embedding = base.tasks.at("sentence_embedding");
  EXPECT_EQ(embedding.read, Read::kMean);
  EXPECT_EQ(embedding.pooler, -1);
  EXPECT_THAT(embedding.head, IsEmpty());
  EXPECT_EQ(embedding.peft_task_type, "FEATURE_EXTRACTION");
  EXPECT_FALSE(embedding.prefixed);
}

TEST(BertTest, Describe_InitializerRange) {
  Json config = SmallConfig();
  EXPECT_EQ(DescribeBert(config)->initializer_range, 0.02);
  config["initializer_range"] = 0.5;
  EXPECT_EQ(DescribeBert(config)->initializer_range, 0.5);
  for (const Json& bad : {Json("big"), Json(-0.1), Json(1e7), Json()}) {
    ExpectRefusedWith(DescribeBert, config, "initializer_range", bad,
                      "\"initializer_range\" must be a number from 0 to 1e+06, found " + bad.dump());
  }
}

TEST(BertTest, Describe_RefusesMissingAndBadSizes) {
  ExpectSizesRefused(DescribeBert, SmallConfig(),
                     {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
                      "max_position_embeddings", "type_vocab_size"});
  ExpectRefusedWith(DescribeBert, SmallConfig(), "num_hidden_layers", 10'001, "from 1 to 10000, found 10001");
  ExpectRefusedWith(DescribeBert, SmallConfig(), "num_attention_heads", 3,
                    "\"hidden_size\" 8 is not a multiple of \"num_attention_heads\" 3");
}

TEST(BertTest, Describe_RefusesOtherChoices) {
  ExpectRefusedWith(DescribeBert, SmallConfig(), "position_embedding_type", "relative_key",
                    "\"position_embedding_type\" must be \"absolute\"");
  ExpectRefusedWith(DescribeBert, SmallConfig(), "is_decoder", true, "\"is_decoder\" must be false");
  ExpectRefusedWith(DescribeBert, SmallConfig(), "add_cross_attention", true, "\"add_cross_attention\" must be false");
  ExpectRefusedWith(DescribeBert, SmallConfig(), "hidden_act", "mish", "\"hidden_act\" must be one of gelu, ");
  ExpectRefusedWith(DescribeBert, SmallConfig(), "layer_norm_eps", "small", "\"layer_norm_eps\" must be a number");
  ExpectRefusedWith(DescribeBert, SmallConfig(), "quantization_config", {{"bits", 4}},
                    "\"quantization_config\" must be null");
}

}  // namespace
}  // namespace weft
