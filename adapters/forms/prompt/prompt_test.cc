#include "adapters/forms/prompt/prompt.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <cmath>

#include "adapters/base.h"

namespace weft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

google::protobuf::Struct Config(const Json& json) {
  google::protobuf::Struct config;
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json.dump(), &config).ok());
  return config;
}

std::unique_ptr<Form> MakePrompt(const Json& config) {
  auto form = CreatePrompt(Config(config));
  EXPECT_TRUE(form.ok()) << form.status();
  return *std::move(form);
}

BaseDescription Base(const Json& config) {
  const auto base = DescribeBase(config.dump());
  EXPECT_TRUE(base.ok()) << base.status();
  return *base;
}

BaseDescription Text(double initializer_range = 0.02) {
  return Base({{"model_type", "bert"},
               {"hidden_size", 8},
               {"num_hidden_layers", 3},
               {"num_attention_heads", 2},
               {"intermediate_size", 16},
               {"vocab_size", 64},
               {"max_position_embeddings", 32},
               {"type_vocab_size", 2},
               {"initializer_range", initializer_range}});
}

BaseDescription Images(int hidden = 8, int layers = 3, int image = 8, int patch = 4) {
  return Base({{"model_type", "vit"},
               {"hidden_size", hidden},
               {"num_hidden_layers", layers},
               {"num_attention_heads", 2},
               {"intermediate_size", 16},
               {"image_size", image},
               {"patch_size", patch}});
}

// Parameters as in the papers: p d, and L p d of the deep form.
TEST(PromptTest, Tensors_ShallowAndDeep) {
  for (const BaseDescription& base : {Text(), Images()}) {
    const auto tensors = MakePrompt({{"tokens", 5}})->Tensors(base);
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    ASSERT_EQ(tensors->size(), 1u);
    EXPECT_EQ(tensors->at(0).name, "prompt_embeddings");
    EXPECT_EQ(tensors->at(0).role, "prompt");
    EXPECT_THAT(tensors->at(0).shape, ElementsAre(5, 8));
  }
  const auto deep = MakePrompt({{"tokens", 5}, {"deep", true}})->Tensors(Images());
  ASSERT_TRUE(deep.ok()) << deep.status();
  ASSERT_EQ(deep->size(), 2u);
  EXPECT_EQ(deep->at(1).name, "deep_prompt_embeddings");
  EXPECT_EQ(deep->at(1).role, "prompt");
  EXPECT_THAT(deep->at(1).shape, ElementsAre(2, 5, 8));
  EXPECT_EQ(MakePrompt({{"deep", true}})->Tensors(Images(8, 1))->size(), 1u) << "no layer after the first";
}

TEST(PromptTest, Tensors_AsManyAsVptHas) {
  const BaseDescription base = Images(768, 12, 224, 16);
  const auto layout = *Layout::Create(*MakePrompt({{"tokens", 50}, {"deep", true}})->Tensors(base));
  EXPECT_EQ(layout->num_elements(), 12 * 50 * 768);
}

TEST(PromptTest, Tensors_Refuses) {
  struct Case {
    Json config;
    BaseDescription base;
    const char* message;
  };
  BaseDescription mlp = Text();
  mlp.model_type = "mlp";
  mlp.transformer.reset();
  const Case cases[] = {{{{"deep", true}}, Text(), "prompts for each layer are for images"},
                        {{{"tokens", 32}}, Text(), "found 32, but the base has 32 positions"},
                        {Json::object(), mlp, "model_type \"mlp\", expected a transformer"}};
  for (const Case& c : cases) {
    const absl::Status status = MakePrompt(c.config)->Tensors(c.base).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST(PromptTest, Create_RefusesABadConfig) {
  for (const Json& config :
       {Json{{"tokens", 0}}, Json{{"tokens", 5000}}, Json{{"dropout", 1}}, Json{{"rank", 2}}, Json{{"deep", "yes"}}}) {
    EXPECT_EQ(CreatePrompt(Config(config)).status().code(), absl::StatusCode::kInvalidArgument) << config;
  }
}

TEST(PromptTest, Initialise_OfTextsNormalOfTheBase) {
  Adapter adapter(*Layout::Create({{"prompt_embeddings", "prompt", {100, 100}}, {"c.bias", "head", {1}}}));
  adapter.values()[10000] = 5;
  MakePrompt(Json::object())->Initialise(Text(0.5), 3, &adapter);
  EXPECT_EQ(adapter.values()[10000], 5) << "another owner's";
  double squares = 0, sum = 0, beyond = 0;
  for (const float value : adapter.values().first(10000)) {
    sum += value;
    squares += value * value;
    beyond += std::abs(value) > 0.5;
  }
  EXPECT_NEAR(sum / 10000, 0, 5 * 0.5 / 100);  // five standard errors each
  EXPECT_NEAR(squares / 10000, 0.25, 5 * 0.25 * std::sqrt(2) / 100);
  EXPECT_NEAR(beyond / 10000, 0.3173, 5 * std::sqrt(0.3173 * 0.6827) / 100);
}

// VPT's code: uniform(-v, v), v = sqrt(6 / (3 patch^2 + hidden)).
TEST(PromptTest, Initialise_OfImagesUniform) {
  const BaseDescription base = Images();
  Adapter adapter(*Layout::Create(*MakePrompt({{"tokens", 500}, {"deep", true}})->Tensors(base)));
  MakePrompt(Json::object())->Initialise(base, 3, &adapter);
  const double bound = std::sqrt(6.0 / (3 * 4 * 4 + 8));
  double largest = 0, squares = 0;
  for (const float value : adapter.values()) {
    largest = std::max<double>(largest, std::abs(value));
    squares += value * value;
  }
  const auto n = static_cast<double>(adapter.values().size());
  EXPECT_LE(largest, bound);
  EXPECT_GT(largest, 0.99 * bound);
  EXPECT_NEAR(squares / n / (bound * bound / 3), 1, 5 * 0.9 / std::sqrt(n));
  EXPECT_NE(adapter.tensor(adapter.layout().tensors()[0])[0], adapter.tensor(adapter.layout().tensors()[1])[0])
      << "a stream for each tensor";
  Adapter again(adapter.layout_ptr()), other(adapter.layout_ptr());
  MakePrompt(Json::object())->Initialise(base, 3, &again);
  MakePrompt(Json::object())->Initialise(base, 4, &other);
  EXPECT_EQ(again.ContentHash(), adapter.ContentHash());
  EXPECT_NE(other.ContentHash(), adapter.ContentHash());
}

TEST(PromptTest, PeftConfig_OfTextsIsPromptTuning) {
  const BaseDescription base = Text();
  const auto form = MakePrompt({{"tokens", 5}, {"dropout", 0.25}});
  const Json peft = *form->PeftConfig(base, base.tasks.at("sequence_classification"));
  const Json expected = {{"peft_type", "PROMPT_TUNING"},
                         {"num_virtual_tokens", 5},
                         {"token_dim", 8},
                         {"num_layers", 3},
                         {"num_attention_heads", 2},
                         {"num_transformer_submodules", 1},
                         {"prompt_tuning_init", "RANDOM"}};
  for (const auto& [key, value] : expected.items()) EXPECT_EQ(peft.value(key, Json("absent")), value) << key;
  EXPECT_EQ(PromptFromPeft(peft)->DebugString(), Config({{"tokens", 5}}).DebugString());
  EXPECT_EQ(form->PeftName("prompt_embeddings", "prompt"), "prompt_embeddings");
  EXPECT_EQ(form->PeftName("classifier.weight", "head"), "base_model.classifier.weight");
}

TEST(PromptTest, PeftConfig_OfImagesIsOurOwn) {
  const BaseDescription base = Images();
  const Json peft = *MakePrompt({{"tokens", 5}, {"deep", true}, {"dropout", 0.25}})
                         ->PeftConfig(base, base.tasks.at("image_classification"));
  EXPECT_EQ(peft["peft_type"], "WEFT_VPT");
  EXPECT_EQ(PromptFromPeft(peft)->DebugString(),
            Config({{"tokens", 5}, {"deep", true}, {"dropout", 0.25}}).DebugString());
}

// As peft 0.21.2 writes it.
TEST(PromptTest, FromPeft_PeftsOwnConfig) {
  const Json peft = Json::parse(
      R"({"auto_mapping": null, "base_model_name_or_path": "b", "inference_mode": true, "modules_to_save": null,
          "num_attention_heads": 4, "num_layers": 2, "num_transformer_submodules": 1, "num_virtual_tokens": 7,
          "peft_type": "PROMPT_TUNING", "peft_version": "0.21.2", "prompt_tuning_init": "TEXT",
          "prompt_tuning_init_text": "say", "revision": null, "task_type": "CAUSAL_LM", "token_dim": 16,
          "tokenizer_kwargs": null, "tokenizer_name_or_path": "b"})");
  const auto config = PromptFromPeft(peft);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->DebugString(), Config({{"tokens", 7}}).DebugString());
}

TEST(PromptTest, FromPeft_Refuses) {
  const std::pair<const char*, Json> of_texts[] = {
      {"num_virtual_tokens", "7"}, {"num_transformer_submodules", 2}, {"of_a_later_version", true}};
  for (const auto& [key, value] : of_texts) {
    Json peft = {{"peft_type", "PROMPT_TUNING"}, {"num_virtual_tokens", 7}};
    peft[key] = value;
    EXPECT_THAT(std::string(PromptFromPeft(peft).status().message()),
                HasSubstr("\"" + std::string(key) + "\" is " + value.dump()));
  }
  const std::pair<const char*, Json> of_images[] = {
      {"num_virtual_tokens", nullptr}, {"deep", 1}, {"dropout", nullptr}, {"power", 2}};
  for (const auto& [key, value] : of_images) {
    Json peft = {{"peft_type", "WEFT_VPT"}, {"num_virtual_tokens", 7}, {"deep", true}, {"dropout", 0}};
    peft[key] = value;
    EXPECT_THAT(std::string(PromptFromPeft(peft).status().message()),
                HasSubstr("\"" + std::string(key) + "\" is " + value.dump()));
  }
}

TEST(PromptTest, Merge_IsRefused) {
  Adapter adapter(*Layout::Create({{"prompt_embeddings", "prompt", {1, 1}}}));
  std::vector<float> weight(1);
  EXPECT_EQ(MakePrompt(Json::object())->Merge(adapter, {.name = "m"}, weight, {}).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace weft
