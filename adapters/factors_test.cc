#include "adapters/factors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <utility>

namespace weft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::shared_ptr<const Layout> Make(std::vector<TensorSpec> tensors) { return *Layout::Create(std::move(tensors)); }

// Two modules, B of the first before its A, and a head.
std::shared_ptr<const Layout> TwoModules() {
  return Make({{"q.lora_B.weight", "lora_b", {2, 3}},
               {"v.lora_A.weight", "lora_a", {3, 2}},
               {"q.lora_A.weight", "lora_a", {3, 4}},
               {"v.lora_B.weight", "lora_b", {1, 3}},
               {"head.weight", "head", {2, 2}}});
}

Adapter Counting(const std::shared_ptr<const Layout>& layout) {
  Adapter adapter(layout);
  std::iota(adapter.values().begin(), adapter.values().end(), 1.0f);
  return adapter;
}

std::string Refusal(std::vector<TensorSpec> tensors) {
  const auto layout = Make(std::move(tensors));
  const auto pairs = FactorPairs(*layout);
  EXPECT_EQ(pairs.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(pairs.status().message());
}

TEST(FactorPairsTest, FactorPairs_ByModuleInOrderOfA) {
  const auto layout = TwoModules();
  const auto pairs = FactorPairs(*layout);
  ASSERT_TRUE(pairs.ok()) << pairs.status();
  ASSERT_EQ(pairs->size(), 2u);
  const FactorPair& v = (*pairs)[0];
  EXPECT_EQ(v.module, "v");
  EXPECT_EQ(v.a, layout->Find("v.lora_A.weight"));
  EXPECT_EQ(v.b, layout->Find("v.lora_B.weight"));
  EXPECT_EQ(v.rank, 3);
  EXPECT_EQ(v.in, 2);
  EXPECT_EQ(v.out, 1);
  EXPECT_EQ((*pairs)[1].module, "q");
}

TEST(FactorPairsTest, FactorPairs_NoFactors) {
  const auto layout = Make({{"head.weight", "head", {2, 2}}});
  EXPECT_THAT(*FactorPairs(*layout), IsEmpty());
}

TEST(FactorPairsTest, FactorPairs_NoPartner) {
  EXPECT_THAT(Refusal({{"q.lora_A.weight", "lora_a", {3, 4}}}),
              HasSubstr("\"q.lora_A.weight\" of role lora_a: found no partner, expected q.lora_B.weight"));
  EXPECT_THAT(Refusal({{"q.lora_B.weight", "lora_b", {4, 3}}}),
              HasSubstr("\"q.lora_B.weight\" of role lora_b: found no partner, expected q.lora_A.weight"));
}

TEST(FactorPairsTest, FactorPairs_UnequalRanks) {
  EXPECT_THAT(Refusal({{"q.lora_A.weight", "lora_a", {3, 4}}, {"q.lora_B.weight", "lora_b", {4, 2}}}),
              HasSubstr("\"q.lora_B.weight\" of role lora_b: found shape 4x2, expected [out, 3]"));
}

TEST(FactorPairsTest, FactorPairs_OtherNameOrShape) {
  EXPECT_THAT(Refusal({{"q.A", "lora_a", {3, 4}}}), HasSubstr("\"q.A\" of role lora_a: found that name"));
  EXPECT_THAT(Refusal({{"q.lora_B.weight", "lora_b", {4, 3, 1}}}), HasSubstr("found shape 4x3x1"));
}

TEST(RankAxisTest, RankAxis_OfEachRole) {
  EXPECT_EQ(RankAxis("lora_a"), 0);
  EXPECT_EQ(RankAxis("lora_b"), 1);
  EXPECT_EQ(RankAxis("head"), std::nullopt);
  EXPECT_EQ(RankAxis("control.lora_a"), std::nullopt);
}

TEST(SentLayoutTest, SentLayout_AllIsTheSameLayout) {
  const auto layout = TwoModules();
  EXPECT_EQ((*SentLayout(*layout, {"head", "lora_a", "lora_b"}, 0))->hash(), layout->hash());
  EXPECT_EQ((*SentLayout(*layout, {"head", "lora_a", "lora_b"}, 3))->hash(), layout->hash());
  EXPECT_EQ((*SentLayout(*layout, {"head", "lora_a", "lora_b"}, 4))->hash(), layout->hash());
}

TEST(SentLayoutTest, SentLayout_RolesInLayoutOrderCutToRank) {
  const auto sent = *SentLayout(*TwoModules(), {"lora_a", "lora_b"}, 2);
  ASSERT_EQ(sent->tensors().size(), 4u);
  EXPECT_EQ(sent->tensors()[0].name, "q.lora_B.weight");
  EXPECT_THAT(sent->tensors()[0].shape, ElementsAre(2, 2));
  EXPECT_EQ(sent->tensors()[1].name, "v.lora_A.weight");
  EXPECT_THAT(sent->tensors()[1].shape, ElementsAre(2, 2));
  EXPECT_EQ(sent->tensors()[2].offset, 8);
}

TEST(SentLayoutTest, SentLayout_Refusals) {
  const auto layout = TwoModules();
  EXPECT_THAT(SentLayout(*layout, {"lora_a"}, -1).status().message(), HasSubstr("rank: found -1"));
  EXPECT_THAT(SentLayout(*layout, {}, 0).status().message(), HasSubstr("found none"));
  EXPECT_THAT(SentLayout(*layout, {"lora_a", "magnitude"}, 0).status().message(), HasSubstr("\"magnitude\""));
  const auto cube = Make({{"q.lora_A.weight", "lora_a", {3, 4, 5}}});
  EXPECT_THAT(SentLayout(*cube, {"lora_a"}, 2).status().message(), HasSubstr("3x4x5"));
}

TEST(CutTest, Cut_FirstRowsOfAAndColumnsOfB) {
  const auto layout = TwoModules();
  const Adapter full = Counting(layout);
  const Adapter cut = Cut(full, *SentLayout(*layout, {"lora_a", "lora_b", "head"}, 2));
  const auto of = [&](const char* name) { return cut.tensor(*cut.layout().Find(name)); };
  EXPECT_THAT(of("q.lora_B.weight"), ElementsAre(1, 2, 4, 5));
  EXPECT_THAT(of("v.lora_A.weight"), ElementsAre(7, 8, 9, 10));
  EXPECT_THAT(of("q.lora_A.weight"), ElementsAre(13, 14, 15, 16, 17, 18, 19, 20));
  EXPECT_THAT(of("v.lora_B.weight"), ElementsAre(25, 26));
  EXPECT_THAT(of("head.weight"), ElementsAre(28, 29, 30, 31));
}

TEST(PutBackTest, PutBack_LeavesOthersUntouched) {
  const auto layout = TwoModules();
  const Adapter before = Counting(layout);
  Adapter full = before.Clone();
  Adapter cut = Cut(full, *SentLayout(*layout, {"lora_a", "lora_b"}, 2));
  for (float& value : cut.values()) value = -value;
  PutBack(cut, &full);
  const auto of = [&](const char* name) { return full.tensor(*full.layout().Find(name)); };
  EXPECT_THAT(of("q.lora_B.weight"), ElementsAre(-1, -2, 3, -4, -5, 6));
  EXPECT_THAT(of("v.lora_A.weight"), ElementsAre(-7, -8, -9, -10, 11, 12));
  EXPECT_THAT(of("v.lora_B.weight"), ElementsAre(-25, -26, 27));
  EXPECT_THAT(of("head.weight"), ElementsAre(28, 29, 30, 31));
  for (float& value : cut.values()) value = -value;
  PutBack(cut, &full);
  EXPECT_EQ(full.ContentHash(), before.ContentHash());
}

TEST(CutDeathTest, Cut_ForeignTensorAborts) {
  const Adapter full(Make({{"q.lora_A.weight", "lora_a", {3, 4}}, {"head", "head", {2, 2}}}));
  EXPECT_DEATH(Cut(full, Make({{"v.lora_A.weight", "lora_a", {3, 4}}})), "\"v.lora_A.weight\" is not cut");
  EXPECT_DEATH(Cut(full, Make({{"q.lora_A.weight", "lora_a", {4, 4}}})), "\"q.lora_A.weight\" is not cut");
  EXPECT_DEATH(Cut(full, Make({{"head", "head", {1, 2}}})), "\"head\" is not cut");  // only components are cut
}

}  // namespace
}  // namespace weft
