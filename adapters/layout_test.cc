#include "adapters/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/hash.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<const Layout> SmallLayout() {
  return *Layout::Create(
      {{"m.lora_A.weight", "lora_a", {2, 3}}, {"m.lora_B.weight", "lora_b", {4, 2}}, {"s", "head", {}}});
}

void ExpectRefused(std::vector<TensorSpec> tensors, const char* why) {
  const auto layout = Layout::Create(std::move(tensors));
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(layout.status().message()), HasSubstr(why));
}

TEST(LayoutTest, Create_TensorsLieInOrderWithoutGaps) {
  const auto layout = SmallLayout();
  ASSERT_EQ(layout->tensors().size(), 3u);
  EXPECT_EQ(layout->tensors()[0].offset, 0);
  EXPECT_EQ(layout->tensors()[0].size, 6);
  EXPECT_EQ(layout->tensors()[1].offset, 6);
  EXPECT_EQ(layout->tensors()[1].size, 8);
  EXPECT_EQ(layout->tensors()[2].size, 1);
  EXPECT_EQ(layout->num_elements(), 15);
  EXPECT_EQ(layout->size_bytes(), 60);
}

TEST(LayoutTest, Create_IgnoresGivenOffsets) {
  const auto layout = *Layout::Create({{"a", "head", {2}, 7, 9}});
  EXPECT_EQ(layout->tensors()[0].offset, 0);
  EXPECT_EQ(layout->tensors()[0].size, 2);
}

TEST(LayoutTest, Create_RefusesWhatIsNoLayout) {
  ExpectRefused({}, "no tensors");
  ExpectRefused({{"", "head", {1}}}, "tensor 0 has an empty name");
  ExpectRefused({{"a", "", {1}}}, "tensor 0 has an empty role");
  ExpectRefused({{"a", "head", {1}}, {"a", "head", {1}}}, "tensor a is there twice");
  ExpectRefused({{"a b", "head", {1}}}, "without blanks");
  ExpectRefused({{"a", "head\n", {1}}}, "without blanks");
  ExpectRefused({{"a", "head", {2, 0}}}, "has shape [2, 0]");
  ExpectRefused({{"a", "head", {-1}}}, "has shape [-1]");
}

TEST(LayoutTest, Create_AtMostTwoToTheForty) {
  constexpr int64_t kHalf = int64_t{1} << 39;
  EXPECT_TRUE(Layout::Create({{"a", "head", {kHalf}}, {"b", "head", {2, kHalf / 2}}}).ok());
  ExpectRefused({{"a", "head", {kHalf}}, {"b", "head", {2, kHalf / 2}}, {"c", "head", {1}}}, "more than the");
  ExpectRefused({{"a", "head", {2 * kHalf}}, {"b", "head", {}}}, "more than the");
  // Sizes whose product wraps around to a small number.
  ExpectRefused({{"a", "head", {int64_t{1} << 32, int64_t{1} << 32, 2}}}, "more than the");
}

TEST(LayoutTest, Hash_IsThatOfTheCanonicalText) {
  EXPECT_EQ(SmallLayout()->hash(),
            ToHex(Sha256Of("m.lora_A.weight lora_a F32 2x3\nm.lora_B.weight lora_b F32 4x2\ns head F32 \n")));
}

TEST(LayoutTest, Hash_TellsLayoutsApart) {
  const auto layout = *Layout::Create({{"a", "head", {2, 3}}, {"b", "head", {1}}});
  EXPECT_EQ(*layout, **Layout::Create({{"a", "head", {2, 3}}, {"b", "head", {1}}}));
  for (const auto& other : {*Layout::Create({{"b", "head", {1}}, {"a", "head", {2, 3}}}),
                            *Layout::Create({{"a", "head", {3, 2}}, {"b", "head", {1}}}),
                            *Layout::Create({{"a", "lora_a", {2, 3}}, {"b", "head", {1}}}),
                            *Layout::Create({{"a", "head", {2, 3}}, {"c", "head", {1}}})}) {
    EXPECT_FALSE(*layout == *other);
  }
}

TEST(LayoutTest, ToProto_ReadsBack) {
  const auto layout = SmallLayout();
  const auto back = Layout::FromProto(layout->ToProto());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(**back, *layout);
}

TEST(LayoutTest, FromProto_RefusesAnotherDtype) {
  proto::Layout layout = SmallLayout()->ToProto();
  layout.mutable_tensors(1)->set_dtype("BF16");
  const absl::Status status = Layout::FromProto(layout).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("m.lora_B.weight has dtype \"BF16\", expected F32"));
}

TEST(LayoutTest, FromProto_RefusesWhatCreateRefuses) {
  EXPECT_EQ(Layout::FromProto(proto::Layout()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(LayoutTest, Find_ByName) {
  const auto layout = SmallLayout();
  EXPECT_EQ(layout->Find("m.lora_B.weight"), &layout->tensors()[1]);
  EXPECT_EQ(layout->Find("m.lora_B"), nullptr);
}

TEST(LayoutTest, TensorAt_FirstAndLastElements) {
  const auto layout = SmallLayout();
  EXPECT_EQ(layout->TensorAt(0).name, "m.lora_A.weight");
  EXPECT_EQ(layout->TensorAt(5).name, "m.lora_A.weight");
  EXPECT_EQ(layout->TensorAt(6).name, "m.lora_B.weight");
  EXPECT_EQ(layout->TensorAt(14).name, "s");
}

}  // namespace
}  // namespace weft
