#include "training/models/family.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weft {
namespace {

using ::testing::HasSubstr;

nlohmann::json Config() {
  return {{"hidden_size", 384},        {"num_hidden_layers", 6},  {"num_attention_heads", 12},
          {"intermediate_size", 1536}, {"vocab_size", 30522},     {"max_position_embeddings", 512},
          {"type_vocab_size", 2},      {"layer_norm_eps", 1e-12}, {"hidden_act", "gelu"}};
}

std::string Refusal(const nlohmann::json& config) {
  const auto result = ReadEncoderConfig(**FindFamily("bert"), config);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(result.status().message());
}

TEST(FamilyTest, FindFamily_ListsKnownOnesWhenUnknown) {
  EXPECT_TRUE(FindFamily("bert").ok());
  const auto unknown = FindFamily("mamba");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("\"mamba\"; known: bert"));
}

TEST(FamilyTest, ReadEncoderConfig_ReadsSizes) {
  const auto config = ReadEncoderConfig(**FindFamily("bert"), Config());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->hidden, 384);
  EXPECT_EQ(config->layers, 6);
  EXPECT_EQ(config->heads, 12);
  EXPECT_EQ(config->intermediate, 1536);
  EXPECT_EQ(config->vocabulary, 30522);
  EXPECT_EQ(config->max_positions, 512);
  EXPECT_EQ(config->token_types, 2);
  EXPECT_EQ(config->norm_epsilon, 1e-12);
}

TEST(FamilyTest, ReadEncoderConfig_RefusesBadFields) {
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
                          "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act"}) {
    nlohmann::json config = Config();
    config.erase(key);
    EXPECT_THAT(Refusal(config), HasSubstr(key));
  }
  nlohmann::json config = Config();
  config["num_hidden_layers"] = 0;
  EXPECT_THAT(Refusal(config), HasSubstr("positive integer, found 0"));
  config = Config();
  config["num_attention_heads"] = 7;
  EXPECT_THAT(Refusal(config), HasSubstr("384 is not a multiple of"));
  config = Config();
  config["hidden_act"] = "relu";
  EXPECT_THAT(Refusal(config), HasSubstr("must be \"gelu\", found \"relu\""));
  config = Config();
  config["layer_norm_eps"] = 0;
  EXPECT_THAT(Refusal(config), HasSubstr("positive number"));
}

}  // namespace
}  // namespace weft
