#include "adapters/families/vit/vit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/families/testing/describe.h"

namespace weft {
namespace {

using ::testing::ElementsAre;
using Json = nlohmann::json;
using Read = TaskDescription::Read;

Json SmallConfig() {
  return {{"model_type", "vit"},     {"hidden_size", 8}, {"num_hidden_layers", 2}, {"num_attention_heads", 2},
          {"intermediate_size", 16}, {"image_size", 8},  {"patch_size", 4}};
}

TEST(VitTest, Describe_NamesInMemoryAndInCheckpoints) {
  const auto base = DescribeVit(SmallConfig());
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->prefix, "vit.");
  EXPECT_EQ(base->linears.size(), 12u);
  EXPECT_EQ(base->norms.size(), 5u);
  EXPECT_EQ(Text(base->linears[7]), "vit.layers.1.attention.k_proj 8x8+");
  EXPECT_EQ(base->linears[7].stored, "vit.encoder.layer.1.attention.attention.key");
  EXPECT_EQ(Text(base->linears[10]), "vit.layers.1.mlp.fc1 16x8+");
  EXPECT_EQ(base->linears[10].stored, "vit.encoder.layer.1.intermediate.dense");
  EXPECT_EQ(base->norms[3].name, "vit.layers.1.layernorm_after");
  EXPECT_EQ(base->norms[3].stored, "vit.encoder.layer.1.layernorm_after");
  EXPECT_EQ(base->norms[4].name, "vit.layernorm");
  EXPECT_EQ(base->norms[4].stored, "");
  EXPECT_EQ(Parameters(*base), 1656);  // ViTModel(add_pooling_layer=False).num_parameters()
}

TEST(VitTest, Describe_Patches) {
  Json config = SmallConfig();
  const Transformer transformer = *DescribeVit(config)->transformer;
  EXPECT_EQ(transformer.patches->count(), 4);
  EXPECT_EQ(transformer.patches->channels, 3);
  EXPECT_EQ(transformer.patches->projection, "vit.embeddings.patch_embeddings.projection");
  EXPECT_EQ(transformer.patches->class_token, "vit.embeddings.cls_token");
  EXPECT_EQ(transformer.position_embeddings, "vit.embeddings.position_embeddings");
  EXPECT_EQ(transformer.max_positions, 5);
  EXPECT_EQ(transformer.vocabulary, 0);
  EXPECT_TRUE(transformer.norm_first);
  EXPECT_FALSE(transformer.causal);
  config["image_size"] = {16, 16};
  config["num_channels"] = 1;
  config["qkv_bias"] = false;
  EXPECT_EQ(DescribeVit(config)->transformer->patches->count(), 16);
  EXPECT_EQ(DescribeVit(config)->transformer->patches->channels, 1);
  EXPECT_EQ(Text(DescribeVit(config)->linears[2]), "vit.layers.0.attention.v_proj 8x8");
  EXPECT_EQ(Text(DescribeVit(config)->linears[3]), "vit.layers.0.attention.o_proj 8x8+");
  config.erase("image_size");
  config.erase("patch_size");
  EXPECT_EQ(DescribeVit(config)->transformer->patches->count(), 196);
}

TEST(VitTest, Describe_Tasks) {
  const BaseDescription base = *DescribeVit(SmallConfig());
  ASSERT_EQ(base.tasks.size(), 1u);
  const TaskDescription& task = base.tasks.at("image_classification");
  EXPECT_EQ(task.read, Read::kFirst);
  EXPECT_EQ(task.pooler, -1);
  EXPECT_THAT(HeadTexts(task), ElementsAre("classifier 0x8+"));
  EXPECT_EQ(task.peft_task_type, "");
  EXPECT_TRUE(task.prefixed);
}

TEST(VitTest, Describe_Refuses) {
  ExpectSizesRefused(DescribeVit, SmallConfig(),
                     {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"});
  for (const char* key : {"image_size", "patch_size"}) {
    for (const Json& bad : {Json(0), Json("8"), Json((1 << 14) + 1), Json({-8, -8}), Json({2.5, 2.5})}) {
      ExpectRefusedWith(DescribeVit, SmallConfig(), key, bad, "must be an integer from 1 to 16384");
    }
    for (const Json& bad : {Json({8, 4}), Json({8, 8, 8}), Json::array()}) {
      ExpectRefusedWith(DescribeVit, SmallConfig(), key, bad,
                        "must be one number or two that are equal, found " + bad.dump());
    }
  }
  ExpectRefusedWith(DescribeVit, SmallConfig(), "patch_size", 3,
                    "\"image_size\" 8 is not a multiple of \"patch_size\" 3");
  ExpectRefusedWith(DescribeVit, SmallConfig(), "num_channels", (1 << 26) + 1,
                    "\"num_channels\" 67108865 of \"patch_size\" 4 squared are over 1073741824");
  ExpectRefusedWith(DescribeVit, SmallConfig(), "num_channels", 0, "\"num_channels\" must be an integer from 1");
  ExpectRefusedWith(DescribeVit, SmallConfig(), "qkv_bias", "yes", "\"qkv_bias\" must be true or false");
}

}  // namespace
}  // namespace weft
