#include "adapters/base.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/hash.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

constexpr char kConfig[] =
    R"({"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "vocab_size": 64, "max_position_embeddings": 32, "type_vocab_size": 2})";

TEST(BaseTest, DescribeBase_FindsTheFamily) {
  const auto base = DescribeBase(kConfig);
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->model_type, "bert");
  EXPECT_EQ(base->linears.size(), 7u);
}

TEST(BaseTest, DescribeBase_EveryFamily) {
  constexpr char kSizes[] =
      R"(", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 2,
          "intermediate_size": 16, "vocab_size": 64, "max_position_embeddings": 32, "type_vocab_size": 2, "dim": 8,
          "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32,
          "sizes": [8, 4, 2], "activation": "relu"})";
  for (const char* family : {"distilbert", "gpt2", "llama", "mistral", "mlp", "qwen2", "qwen3", "vit"}) {
    const auto base = DescribeBase(absl::StrCat(R"({"model_type": ")", family, kSizes));
    ASSERT_TRUE(base.ok()) << base.status();
    EXPECT_EQ(base->model_type, family);
  }
  std::string roberta = kConfig;
  roberta.replace(roberta.find("bert"), 4, "roberta");
  EXPECT_EQ(DescribeBase(roberta)->model_type, "roberta");
}

TEST(BaseTest, FindTask_OneThatTheBaseDoes) {
  const BaseDescription base = *DescribeBase(kConfig);
  EXPECT_EQ((*FindTask(base, "sequence_classification"))->head[0].name, "classifier");
  const absl::Status status = FindTask(base, "causal_lm").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("a base of model_type \"bert\" does no \"causal_lm\"; it does sentence_embedding, "
                        "sequence_classification"));
}

TEST(BaseTest, DescribeBase_Refuses) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "no JSON object"},
      {"{", "no JSON object"},
      {"[]", "no JSON object"},
      {"{}", "\"model_type\" is missing"},
      {R"({"model_type": 3})", "\"model_type\" is missing"},
      {R"({"model_type": "abacus"})",
       "no family for model_type \"abacus\"; known: bert, distilbert, gpt2, llama, mistral, mlp, qwen2, qwen3, "
       "roberta, vit"},
      {R"({"model_type": "bert"})", "\"hidden_size\" must be"},
  };
  for (const auto& [text, why] : cases) {
    const absl::Status status = DescribeBase(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  }
}

class HashBaseTest : public testing::Test {
 protected:
  HashBaseTest() : folder_(absl::StrCat(testing::TempDir(), "/base")) {
    std::filesystem::remove_all(folder_);
    EXPECT_TRUE(MakeDirectories(folder_).ok());
    Write("config.json", "{}");
    Write("b.safetensors", "weights b");
    Write("a.safetensors", "weights a");
  }
  void Write(const std::string& name, const std::string& text) {
    EXPECT_TRUE(WriteFileAtomically(absl::StrCat(folder_, "/", name), text).ok());
  }
  void ExpectNotFound(const std::string& folder, const char* why) {
    const absl::Status status = HashBase(folder).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  }
  const std::string folder_;
};

TEST_F(HashBaseTest, HashBase_NameLengthContentInOrder) {
  using std::string_literals::operator""s;
  const std::string expected =
      ToHex(Sha256Of("config.json\0\2\0\0\0\0\0\0\0{}"
                     "a.safetensors\0\t\0\0\0\0\0\0\0weights a"
                     "b.safetensors\0\t\0\0\0\0\0\0\0weights b"s));
  EXPECT_EQ(*HashBase(folder_), expected);
}

TEST_F(HashBaseTest, HashBase_OtherFilesDoNotCount) {
  const std::string before = *HashBase(folder_);
  Write("README.md", "about");
  Write("tokenizer.json", "{}");
  EXPECT_EQ(*HashBase(folder_), before);
}

TEST_F(HashBaseTest, HashBase_ChangesWithEachPart) {
  const std::string before = *HashBase(folder_);
  Write("config.json", "{ }");
  const std::string config = *HashBase(folder_);
  Write("config.json", "{}");
  Write("a.safetensors", "weights A");
  const std::string weights = *HashBase(folder_);
  Write("a.safetensors", "weights a");
  std::filesystem::rename(folder_ + "/b.safetensors", folder_ + "/c.safetensors");
  const std::string name = *HashBase(folder_);
  EXPECT_NE(config, before);
  EXPECT_NE(weights, before);
  EXPECT_NE(name, before);
}

TEST_F(HashBaseTest, HashBase_MissingParts) {
  ExpectNotFound("/nowhere", "/nowhere");
  std::filesystem::remove(folder_ + "/config.json");
  ExpectNotFound(folder_, "no config.json there");
  Write("config.json", "{}");
  std::filesystem::remove(folder_ + "/a.safetensors");
  std::filesystem::remove(folder_ + "/b.safetensors");
  ExpectNotFound(folder_, "no *.safetensors there");
}

}  // namespace
}  // namespace weft
