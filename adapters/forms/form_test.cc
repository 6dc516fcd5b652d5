#include "adapters/forms/form.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace weft {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using Json = nlohmann::json;

proto::AdapterConfig Config(bool head = true) {
  proto::AdapterConfig config;
  config.set_form("lora");
  config.set_head(head);
  auto& fields = *config.mutable_config()->mutable_fields();
  fields["rank"].set_number_value(2);
  fields["target_modules"].mutable_list_value()->add_values()->set_string_value("query");
  return config;
}

proto::TaskConfig Task(int labels = 3) {
  proto::TaskConfig task;
  task.set_type("sequence_classification");
  for (int i = 0; i < labels; ++i) task.add_labels(std::to_string(i));
  return task;
}

BaseDescription SmallBase(const char* more = "") {
  const auto base = DescribeBase(
      std::string(R"({"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
          "intermediate_size": 16, "vocab_size": 64, "max_position_embeddings": 32, "type_vocab_size": 2)") +
      more + "}");
  EXPECT_TRUE(base.ok()) << base.status();
  return *base;
}

Json Peft() {
  const BaseDescription base = SmallBase();
  return *(*CreateForm(Config()))->PeftConfig(base, base.tasks.at("sequence_classification"));
}

void ExpectRefused(const absl::Status& status, const char* why) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(why));
}

TEST(FormTest, Create_RefusesUnknownFormAndBadConfig) {
  proto::AdapterConfig config = Config();
  config.set_form("knitting");
  ExpectRefused(CreateForm(config).status(), "no form \"knitting\"; known: lora, lora_sb, ssf, prompt");
  config = Config();
  (*config.mutable_config()->mutable_fields())["rank"].set_number_value(0);
  ExpectRefused(CreateForm(config).status(), "adapter.config");
  config = Config();
  (*config.mutable_config()->mutable_fields())["ranc"].set_number_value(1);
  ExpectRefused(CreateForm(config).status(), "ranc");
}

TEST(FormTest, MakeLayout_FormThenHead) {
  const auto layout = MakeLayout(Config(), Task(), SmallBase());
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(*layout.value(),
            **Layout::Create({{"bert.encoder.layer.0.attention.self.query.lora_A.weight", "lora_a", {2, 8}},
                              {"bert.encoder.layer.0.attention.self.query.lora_B.weight", "lora_b", {8, 2}},
                              {"classifier.weight", "head", {3, 8}},
                              {"classifier.bias", "head", {3}}}));
}

TEST(FormTest, MakeLayout_WithoutHead) {
  const auto layout = MakeLayout(Config(false), Task(0), SmallBase());
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout.value()->tensors().size(), 2u);
}

// Of RoBERTa two modules, the first without a row a label; of Llama none has a bias.
TEST(FormTest, MakeLayout_HeadOfTheTask) {
  BaseDescription base = SmallBase();
  base.tasks["sequence_classification"].head = {{.name = "classifier.dense", .out_features = 8, .in_features = 8},
                                                {.name = "classifier.out_proj", .in_features = 8, .bias = false}};
  const auto layout = MakeLayout(Config(), Task(), base);
  ASSERT_TRUE(layout.ok()) << layout.status();
  std::vector<TensorSpec> head(layout.value()->tensors().begin() + 2, layout.value()->tensors().end());
  EXPECT_EQ(**Layout::Create(head), **Layout::Create({{"classifier.dense.weight", "head", {8, 8}},
                                                      {"classifier.dense.bias", "head", {8}},
                                                      {"classifier.out_proj.weight", "head", {3, 8}}}));
}

TEST(FormTest, MakeLayout_TaskWithoutHead) {
  proto::TaskConfig task;
  task.set_type("sentence_embedding");
  const auto layout = MakeLayout(Config(/*head=*/true), task, SmallBase());
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(**layout, **MakeLayout(Config(false), Task(0), SmallBase()));
  task.add_labels("yes");
  ExpectRefused(MakeLayout(Config(), task, SmallBase()).status(), "found 1 labels, but task sentence_embedding");
  task.set_type("image_classification");
  ExpectRefused(MakeLayout(Config(), task, SmallBase()).status(), "does no \"image_classification\"");
}

TEST(FormTest, IsClassification_IsWhatHasLabels) {
  proto::TaskConfig task;
  for (const char* type : {"sequence_classification", "image_classification"}) {
    task.set_type(type);
    EXPECT_TRUE(IsClassification(task));
  }
  for (const char* type : {"causal_lm", "sentence_embedding"}) {
    task.set_type(type);
    EXPECT_FALSE(IsClassification(task));
  }
}

// Forms without an own word on it.
TEST(FormTest, Defaults_AreRefusalsThatSayWhatToDo) {
  proto::AdapterConfig config;
  config.set_form("prompt");
  const auto form = *CreateForm(config);
  const BaseDescription base = SmallBase();
  Adapter adapter(*Layout::Create(*form->Tensors(base)));
  ExpectRefused(form->Reinitialise(1, &adapter), "initial values depend on the base");
  ExpectRefused(form->WithRank(base, 4).status(), "use adapter.form lora");
  ExpectRefused(form->Merge(adapter, {.name = "m"}, {}, {}), "module m: an adapter of this form can't be merged");
  EXPECT_EQ(form->Scale("m"), 1);
  EXPECT_FALSE(form->ForPeft(adapter)->has_value());
}

TEST(FormTest, MakeLayout_Refuses) {
  ExpectRefused(MakeLayout(Config(), Task(0), SmallBase()).status(), "task.labels: found none");
  proto::AdapterConfig config = Config();
  (*config.mutable_config()->mutable_fields())["target_modules"].mutable_list_value()->add_values()->set_string_value(
      "x");
  ExpectRefused(MakeLayout(config, Task(), SmallBase()).status(), "\"x\" matches no linear module");
  config.set_form("knitting");
  ExpectRefused(MakeLayout(config, Task(), SmallBase()).status(), "knitting");
}

TEST(FormTest, MakeInitialAdapter_HeadIsNormalWithZeroBias) {
  const BaseDescription base = SmallBase(R"(, "initializer_range": 0.5)");
  const auto layout = *MakeLayout(Config(), Task(1000), base);
  const auto adapter = MakeInitialAdapter(Config(), base, layout, 3);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_THAT(adapter->tensor(*layout->Find("classifier.bias")), Each(0.0f));
  const auto weight = adapter->tensor(*layout->Find("classifier.weight"));
  double sum = 0, squares = 0, beyond = 0;
  for (const float value : weight) {
    sum += value;
    squares += value * value;
    beyond += std::abs(value) > 0.5;
  }
  const auto n = static_cast<double>(weight.size());
  // Five standard errors each.
  EXPECT_NEAR(sum / n, 0, 5 * 0.5 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 0.25, 5 * 0.25 * std::sqrt(2 / n));
  EXPECT_NEAR(beyond / n, 0.3173, 5 * std::sqrt(0.3173 * 0.6827 / n));  // a normal's share beyond one sigma
  EXPECT_NE(adapter->values()[0], 0.0f) << "the form's tensors too";
}

TEST(FormTest, MakeInitialAdapter_AStreamForEachModuleOfAHead) {
  BaseDescription base = SmallBase();
  base.tasks["sequence_classification"].head = {{.name = "one", .out_features = 8, .in_features = 8},
                                                {.name = "two", .out_features = 8, .in_features = 8}};
  const auto layout = *MakeLayout(Config(), Task(0), base);
  const Adapter adapter = *MakeInitialAdapter(Config(), base, layout, 3);
  EXPECT_NE(adapter.tensor(*layout->Find("one.weight"))[0], 0);
  EXPECT_NE(adapter.tensor(*layout->Find("one.weight"))[0], adapter.tensor(*layout->Find("two.weight"))[0]);
  EXPECT_THAT(adapter.tensor(*layout->Find("two.bias")), Each(0.0f));
}

TEST(FormTest, MakeInitialAdapter_SameSeedSameBits) {
  const BaseDescription base = SmallBase();
  const auto layout = *MakeLayout(Config(), Task(), base);
  const auto hash = [&](uint64_t seed) { return MakeInitialAdapter(Config(), base, layout, seed)->ContentHash(); };
  EXPECT_EQ(hash(1), hash(1));
  EXPECT_NE(hash(1), hash(2));
}

TEST(FormTest, FromPeftConfig_ReadsWhatPeftConfigWrote) {
  Json peft = Peft();
  auto config = FormFromPeftConfig(peft);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->form(), "lora");
  EXPECT_FALSE(config->head());
  EXPECT_EQ(*MakeLayout(*config, Task(), SmallBase()).value(), *MakeLayout(Config(false), Task(), SmallBase()).value());
  peft["modules_to_save"] = {"classifier"};
  EXPECT_TRUE(FormFromPeftConfig(peft)->head());
}

TEST(FormTest, FromPeftConfig_Refuses) {
  ExpectRefused(FormFromPeftConfig(Json::parse("{", nullptr, false)).status(), "no JSON object");
  ExpectRefused(FormFromPeftConfig(Json::object()).status(),
                "\"peft_type\" null; known: LORA, WEFT_LORA_SB, WEFT_SSF, PROMPT_TUNING, WEFT_VPT");
  ExpectRefused(FormFromPeftConfig({{"peft_type", "IA3"}}).status(),
                "\"peft_type\" \"IA3\"; known: LORA, WEFT_LORA_SB, WEFT_SSF, PROMPT_TUNING, WEFT_VPT");
  Json peft = Peft();
  peft["r"] = 0;
  ExpectRefused(FormFromPeftConfig(peft).status(), "rank");
  peft["r"] = 2;
  peft["use_dora"] = true;
  ExpectRefused(FormFromPeftConfig(peft).status(), "use_dora");
}

}  // namespace
}  // namespace weft
