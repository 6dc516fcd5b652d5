#include "training/forms/prompt/prompt.h"

#include <ATen/Context.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "training/forms/member_dropout.h"
#include "training/forms/test_members.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kTokens = 3, kHidden = 24, kLayers = 4;

BaseDescription Base(bool images) {
  BaseDescription base;
  base.model_type = "some";
  base.hidden_size = kHidden;
  base.transformer.emplace();
  base.transformer->hidden = kHidden;
  base.transformer->layers.resize(kLayers);
  base.transformer->max_positions = 32;
  if (images) base.transformer->patches.emplace();
  return base;
}

std::unique_ptr<TorchForm> Prompt(const std::string& more = "") {
  auto form = CreateTorchPrompt(FormConfig("prompt", R"({"tokens": 3)" + more + "}"));
  EXPECT_TRUE(form.ok()) << form.status();
  return *std::move(form);
}

constexpr char kDeepConfig[] = R"(, "deep": true)";

std::vector<MemberTensors> Members(bool deep) {
  at::manual_seed(3);
  std::vector<MemberTensors> members;
  for (int k = 0; k < 2; ++k) {
    members.push_back({{"prompt_embeddings", Trained(at::randn({kTokens, kHidden}))},
                       {"classifier.weight", Trained(at::randn({3, 7}))}});
    if (deep) members[k]["deep_prompt_embeddings"] = Trained(at::randn({kLayers - 1, kTokens, kHidden}));
  }
  return members;
}

TEST(PromptTest, Prompt_IsTheMembersOwnAndDifferentiable) {
  for (const bool images : {false, true}) {
    const std::vector<MemberTensors> members = Members(false);
    const auto attached = Prompt()->Attach(Base(images), members);
    ASSERT_TRUE(attached.ok()) << attached.status();
    const PromptAdapter& prompt = *attached->prompt;
    EXPECT_EQ(prompt.tokens(), kTokens);
    EXPECT_FALSE(prompt.replaces(1));
    for (int pass = 0; pass < 2; ++pass) (prompt.Prompt(0, 1, nullptr) * 2).sum().backward();
    EXPECT_TRUE(prompt.Prompt(0, 1, nullptr).equal(members[1].at("prompt_embeddings").value));
    EXPECT_TRUE((members[1].at("prompt_embeddings").gradient == 4).all().item<bool>());
    EXPECT_EQ(members[0].at("prompt_embeddings").gradient.count_nonzero().item<int64_t>(), 0);
  }
}

TEST(PromptTest, Prompt_DeepReplacesInEachFurtherLayer) {
  const std::vector<MemberTensors> members = Members(true);
  const auto attached = Prompt(kDeepConfig)->Attach(Base(true), members);
  ASSERT_TRUE(attached.ok()) << attached.status();
  const PromptAdapter& prompt = *attached->prompt;
  EXPECT_FALSE(prompt.replaces(0));
  EXPECT_TRUE(prompt.replaces(1) && prompt.replaces(kLayers - 1));
  EXPECT_TRUE(prompt.Prompt(0, 0, nullptr).equal(members[0].at("prompt_embeddings").value));
  const MemberTensor& deep = members[0].at("deep_prompt_embeddings");
  EXPECT_TRUE(prompt.Prompt(3, 0, nullptr).equal(deep.value[2]));
  prompt.Prompt(3, 0, nullptr).sum().backward();
  EXPECT_TRUE((deep.gradient[2] == 1).all().item<bool>());
  EXPECT_EQ(deep.gradient.slice(0, 0, 2).count_nonzero().item<int64_t>(), 0);
}

TEST(PromptTest, Prompt_ConstantsGetNoGradient) {
  std::vector<MemberTensors> members = Members(false);
  for (MemberTensors& member : members) member["prompt_embeddings"] = Constant(member["prompt_embeddings"].value);
  const auto attached = Prompt()->Attach(Base(false), members);
  EXPECT_FALSE(attached->prompt->Prompt(0, 0, nullptr).requires_grad());
}

TEST(PromptTest, Prompt_DropoutDiffersByLayerMemberAndStepAndKeepsTheMean) {
  const std::vector<MemberTensors> members = Members(true);
  const auto attached = Prompt(R"(, "deep": true, "dropout": 0.5)")->Attach(Base(true), members);
  const PassRandom random = {.seeds = {1, 2}, .step = 7}, next = {.seeds = {1, 2}, .step = 8};
  const auto kept = [&](int64_t layer, int64_t member, const PassRandom& of) {
    const at::Tensor value = attached->prompt->Prompt(layer, member, nullptr).detach();
    return (attached->prompt->Prompt(layer, member, &of).detach() / value).round();
  };
  const at::Tensor first = kept(0, 0, random);
  EXPECT_TRUE(((first == 0) + (first == 2)).all().item<bool>());
  EXPECT_TRUE(first.equal(MemberDropout("prompt_embeddings", 0.5).Factors(0, random, 0, kTokens, kHidden)));
  EXPECT_TRUE(first.equal(kept(0, 0, random)));
  EXPECT_FALSE(first.equal(kept(1, 0, random)));
  EXPECT_FALSE(first.equal(kept(0, 1, random)));
  EXPECT_FALSE(first.equal(kept(0, 0, next)));
  attached->prompt->Prompt(0, 0, &random).sum().backward();
  EXPECT_TRUE(members[0].at("prompt_embeddings").gradient.equal(first));
}

std::string Refusal(const std::string& more, const BaseDescription& base, const std::vector<MemberTensors>& members) {
  const auto attached = Prompt(more)->Attach(base, members);
  EXPECT_EQ(attached.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(attached.status().message());
}

TEST(PromptTest, Attach_RefusesWhatDoesNotFit) {
  BaseDescription no_tokens = Base(false);
  no_tokens.transformer.reset();
  EXPECT_THAT(Refusal("", no_tokens, Members(false)), HasSubstr("expected a transformer"));
  EXPECT_THAT(Refusal(kDeepConfig, Base(false), Members(true)),
              HasSubstr("adapter.config.deep: found true on a base that reads texts"));
  EXPECT_THAT(Refusal(kDeepConfig, Base(true), Members(false)),
              HasSubstr("deep_prompt_embeddings: found it in 0 of 2 members"));
  EXPECT_THAT(Refusal("", Base(true), Members(true)), HasSubstr("adapter.config.deep is false"));
  std::vector<MemberTensors> members = Members(false);
  members[1].erase("prompt_embeddings");
  EXPECT_THAT(Refusal("", Base(true), members), HasSubstr("prompt_embeddings: found it in 1 of 2 members"));
  members = Members(true);
  members[1]["prompt_embeddings"] = Trained(at::randn({2, kHidden}));
  EXPECT_THAT(Refusal(kDeepConfig, Base(true), members), HasSubstr("has shape [2, 24], the base asks for [3, 24]"));
  members = Members(true);
  members[1]["deep_prompt_embeddings"] = Trained(at::randn({kLayers, kTokens, kHidden}));
  EXPECT_THAT(Refusal(kDeepConfig, Base(true), members), HasSubstr("[4, 3, 24], the base asks for [3, 3, 24]"));
}

}  // namespace
}  // namespace weft
