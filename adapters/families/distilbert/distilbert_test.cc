#include "adapters/families/distilbert/distilbert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/families/testing/describe.h"

namespace weft {
namespace {

using ::testing::ElementsAre;
using Json = nlohmann::json;
using Read = TaskDescription::Read;

Json SmallConfig() {
  return {{"model_type", "distilbert"},
          {"dim", 8},
          {"n_layers", 2},
          {"n_heads", 2},
          {"hidden_dim", 16},
          {"vocab_size", 64},
          {"max_position_embeddings", 32}};
}

TEST(DistilbertTest, Describe_Modules) {
  const auto base = DescribeDistilbert(SmallConfig());
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->prefix, "distilbert.");
  EXPECT_EQ(base->linears.size(), 12u);
  EXPECT_EQ(base->norms.size(), 5u);
  EXPECT_EQ(Text(base->linears[6]), "distilbert.transformer.layer.1.attention.q_lin 8x8+");
  EXPECT_EQ(Text(base->linears[10]), "distilbert.transformer.layer.1.ffn.lin1 16x8+");
  EXPECT_EQ(base->norms[1].name, "distilbert.transformer.layer.0.sa_layer_norm");
  EXPECT_EQ(base->transformer->token_type_embeddings, "");
  EXPECT_EQ(base->transformer->position_embedding_rows, 32);
  EXPECT_EQ(base->transformer->norm_epsilon, 1e-12);
  EXPECT_EQ(Parameters(*base), 1984);  // DistilBertModel.num_parameters()
}

TEST(DistilbertTest, Describe_Tasks) {
  const BaseDescription base = *DescribeDistilbert(SmallConfig());
  ASSERT_EQ(base.tasks.size(), 2u);
  const TaskDescription& classification = base.tasks.at("sequence_classification");
  EXPECT_EQ(classification.read, Read::kFirst);
  EXPECT_THAT(HeadTexts(classification), ElementsAre("pre_classifier 8x8+", "classifier 0x8+"));
  EXPECT_EQ(classification.head[0].activation, Activation::kRelu);
  EXPECT_FALSE(base.tasks.at("sentence_embedding").prefixed);
}

TEST(DistilbertTest, Describe_Refuses) {
  ExpectSizesRefused(DescribeDistilbert, SmallConfig(),
                     {"dim", "n_layers", "n_heads", "hidden_dim", "vocab_size", "max_position_embeddings"});
  ExpectRefusedWith(DescribeDistilbert, SmallConfig(), "activation", "mish", "\"activation\" must be one of gelu, ");
  ExpectRefusedWith(DescribeDistilbert, SmallConfig(), "n_heads", 3, "\"dim\" 8 is not a multiple of \"n_heads\" 3");
}

}  // namespace
}  // namespace weft
