#include "adapters/families/gpt2/gpt2.h"

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
  return {{"model_type", "gpt2"}, {"n_embd", 8},      {"n_layer", 2},
          {"n_head", 2},          {"vocab_size", 64}, {"n_positions", 32}};
}

TEST(Gpt2Test, Describe_FusedModulesStoredTransposed) {
  const auto base = DescribeGpt2(SmallConfig());
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->prefix, "transformer.");
  EXPECT_THAT(LinearTexts(*base), ElementsAre("transformer.h.0.attn.c_attn 24x8+", "transformer.h.0.attn.c_proj 8x8+",
                                              "transformer.h.0.mlp.c_fc 32x8+", "transformer.h.0.mlp.c_proj 8x32+",
                                              "transformer.h.1.attn.c_attn 24x8+", "transformer.h.1.attn.c_proj 8x8+",
                                              "transformer.h.1.mlp.c_fc 32x8+", "transformer.h.1.mlp.c_proj 8x32+"));
  for (const LinearModule& linear : base->linears) EXPECT_TRUE(linear.stored_transposed) << linear.name;
  EXPECT_EQ(base->transformer->layers[1].query_key_value, 4);
  EXPECT_EQ(base->transformer->layers[1].query, -1);
  EXPECT_THAT(NormNames(*base), ElementsAre("transformer.h.0.ln_1", "transformer.h.0.ln_2", "transformer.h.1.ln_1",
                                            "transformer.h.1.ln_2", "transformer.ln_f"));
  EXPECT_EQ(base->transformer->final_norm, 4);
  EXPECT_EQ(Parameters(*base), 2528);  // GPT2Model.num_parameters()
}

TEST(Gpt2Test, Describe_Choices) {
  Json config = SmallConfig();
  const Transformer transformer = *DescribeGpt2(config)->transformer;
  EXPECT_TRUE(transformer.causal && transformer.norm_first);
  EXPECT_FALSE(transformer.rms_norm || transformer.rotary.has_value());
  EXPECT_EQ(transformer.norm_epsilon, 1e-5);
  EXPECT_EQ(transformer.activation, Activation::kGeluTanh);
  EXPECT_EQ(transformer.position_embedding_rows, 32);
  EXPECT_EQ(transformer.lm_head, "");
  EXPECT_THAT(transformer.ignored, testing::Contains("lm_head."));
  EXPECT_THAT(transformer.ignored, testing::Contains("transformer.h.1.attn.bias"));
  config["n_inner"] = 20;
  EXPECT_EQ(DescribeGpt2(config)->transformer->intermediate, 20);
  config["n_inner"] = nullptr;
  EXPECT_EQ(DescribeGpt2(config)->transformer->intermediate, 32);
  config["tie_word_embeddings"] = false;
  EXPECT_EQ(DescribeGpt2(config)->transformer->lm_head, "lm_head");
  EXPECT_THAT(DescribeGpt2(config)->transformer->ignored, testing::Not(testing::Contains("lm_head.")));
}

TEST(Gpt2Test, Describe_Tasks) {
  const BaseDescription base = *DescribeGpt2(SmallConfig());
  ASSERT_EQ(base.tasks.size(), 3u);
  const TaskDescription& classification = base.tasks.at("sequence_classification");
  EXPECT_EQ(classification.read, Read::kLast);
  EXPECT_THAT(HeadTexts(classification), ElementsAre("score 0x8"));
  const TaskDescription& language = base.tasks.at("causal_lm");
  EXPECT_EQ(language.read, Read::kEach);
  EXPECT_THAT(language.head, IsEmpty());
  EXPECT_EQ(language.peft_task_type, "CAUSAL_LM");
  EXPECT_TRUE(language.prefixed);
  EXPECT_FALSE(base.tasks.at("sentence_embedding").prefixed);
}

TEST(Gpt2Test, Describe_Refuses) {
  ExpectSizesRefused(DescribeGpt2, SmallConfig(), {"n_embd", "n_layer", "n_head", "vocab_size", "n_positions"});
  ExpectRefusedWith(DescribeGpt2, SmallConfig(), "n_inner", 0, "\"n_inner\" must be an integer from 1");
  ExpectRefusedWith(DescribeGpt2, SmallConfig(), "scale_attn_weights", false, "\"scale_attn_weights\" must be true");
  ExpectRefusedWith(DescribeGpt2, SmallConfig(), "scale_attn_by_inverse_layer_idx", true,
                    "\"scale_attn_by_inverse_layer_idx\" must be false");
  ExpectRefusedWith(DescribeGpt2, SmallConfig(), "add_cross_attention", true, "\"add_cross_attention\" must be false");
  ExpectRefusedWith(DescribeGpt2, SmallConfig(), "tie_word_embeddings", 1,
                    "\"tie_word_embeddings\" must be true or false, found 1");
}

}  // namespace
}  // namespace weft
