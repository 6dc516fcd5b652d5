#include "training/forms/form.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "training/forms/test_members.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

TEST(TorchFormTest, Create_RefusesUnknownFormAndBadConfig) {
  const auto status = [](const std::string& form, const std::string& json) {
    return CreateTorchForm(FormConfig(form, json)).status();
  };
  EXPECT_THAT(std::string(status("prefixx", "{}").message()),
              HasSubstr("no form \"prefixx\"; known: lora, lora_sb, prompt, ssf"));
  for (const auto& [form, json] : {std::pair{"lora", R"({"rank": 0, "target_modules": ["query"]})"},
                                   {"lora", R"({"ranc": 2, "target_modules": ["query"]})"},
                                   {"lora_sb", R"({"rank": 0, "target_modules": ["query"]})"},
                                   {"prompt", R"({"tokens": 0})"},
                                   {"ssf", R"({"tokens": 1})"}}) {
    EXPECT_EQ(status(form, json).code(), absl::StatusCode::kInvalidArgument) << form << json;
  }
}

TEST(TorchFormTest, PromptTokens_AreThoseOfAPrompt) {
  const auto tokens = [](const std::string& form, const std::string& json) {
    return (*CreateTorchForm(FormConfig(form, json)))->prompt_tokens();
  };
  EXPECT_EQ(tokens("prompt", R"({"tokens": 3})"), 3);
  EXPECT_EQ(tokens("lora", R"({"target_modules": ["query"]})"), 0);
}

}  // namespace
}  // namespace weft
