#include "adapters/families/roberta/roberta.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/families/testing/describe.h"

namespace weft {
namespace {

using ::testing::ElementsAre;
using Json = nlohmann::json;
using Read = TaskDescription::Read;

Json SmallConfig() {
  return {{"model_type", "roberta"}, {"hidden_size", 8}, {"num_hidden_layers", 2},        {"num_attention_heads", 2},
          {"intermediate_size", 16}, {"vocab_size", 64}, {"max_position_embeddings", 32}, {"type_vocab_size", 2}};
}

TEST(RobertaTest, Describe_ModulesWithoutPooler) {
  const auto base = DescribeRoberta(SmallConfig());
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->prefix, "roberta.");
  EXPECT_EQ(base->linears.size(), 12u);
  EXPECT_EQ(base->norms.size(), 5u);
  EXPECT_EQ(Text(base->linears[7]), "roberta.encoder.layer.1.attention.self.key 8x8+");
  EXPECT_EQ(Text(base->linears[11]), "roberta.encoder.layer.1.output.dense 8x16+");
  EXPECT_EQ(Parameters(*base), 2000);  // RobertaModel(add_pooling_layer=False).num_parameters()
}

TEST(RobertaTest, Describe_PositionsBeginAfterThePaddingTokens) {
  Json config = SmallConfig();
  EXPECT_EQ(DescribeRoberta(config)->transformer->first_position, 2);
  EXPECT_EQ(DescribeRoberta(config)->transformer->max_positions, 30);
  EXPECT_EQ(DescribeRoberta(config)->transformer->position_embedding_rows, 32);
  config["pad_token_id"] = 0;
  EXPECT_EQ(DescribeRoberta(config)->transformer->first_position, 1);
  EXPECT_EQ(DescribeRoberta(config)->transformer->max_positions, 31);
  config["pad_token_id"] = 30;
  EXPECT_EQ(DescribeRoberta(config)->transformer->max_positions, 1);
  ExpectRefusedWith(DescribeRoberta, config, "pad_token_id", 31,
                    "\"max_position_embeddings\" 32 leaves no position after \"pad_token_id\" 31");
  for (const Json& bad : {Json(-1), Json("1"), Json()}) {
    ExpectRefusedWith(DescribeRoberta, config, "pad_token_id", bad, "\"pad_token_id\" must be");
  }
}

TEST(RobertaTest, Describe_Tasks) {
  const BaseDescription base = *DescribeRoberta(SmallConfig());
  ASSERT_EQ(base.tasks.size(), 2u);
  const TaskDescription& classification = base.tasks.at("sequence_classification");
  EXPECT_EQ(classification.read, Read::kFirst);
  EXPECT_EQ(classification.pooler, -1);
  EXPECT_THAT(HeadTexts(classification), ElementsAre("classifier.dense 8x8+", "classifier.out_proj 0x8+"));
  EXPECT_EQ(classification.head[0].activation, Activation::kTanh);
  EXPECT_EQ(classification.head[1].activation, Activation::kNone);
  EXPECT_FALSE(base.tasks.at("sentence_embedding").prefixed);
}

TEST(RobertaTest, Describe_Refuses) {
  ExpectSizesRefused(DescribeRoberta, SmallConfig(), {"hidden_size", "max_position_embeddings", "type_vocab_size"});
  ExpectRefusedWith(DescribeRoberta, SmallConfig(), "position_embedding_type", "relative_key", "must be \"absolute\"");
  ExpectRefusedWith(DescribeRoberta, SmallConfig(), "is_decoder", true, "\"is_decoder\" must be false");
  ExpectRefusedWith(DescribeRoberta, SmallConfig(), "add_cross_attention", true,
                    "\"add_cross_attention\" must be false");
}

}  // namespace
}  // namespace weft
