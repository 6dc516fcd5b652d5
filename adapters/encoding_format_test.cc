#include "adapters/encoding_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weft {
namespace {

std::shared_ptr<const Layout> TwoTensors() {
  return *Layout::Create(
      {{.name = "a", .role = "lora_a", .shape = {129}}, {.name = "b", .role = "lora_b", .shape = {3, 1}}});
}

TEST(EncodingFormatTest, ParseEncoding_KnowsEachName) {
  for (const char* name : {"f32", "bf16", "f16", "int8", "int4", "topk"}) {
    EXPECT_STREQ(EncodingName(*ParseEncoding(name)), name);
  }
}

TEST(EncodingFormatTest, ParseEncoding_OtherNamesAreRefused) {
  for (const char* name : {"", "F32", "int", "int16"}) {
    const absl::Status status = ParseEncoding(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), testing::HasSubstr("expected one of f32, bf16, f16, int8, int4, topk"));
  }
}

TEST(EncodingFormatTest, EncodedBytes_OfEachEncoding) {
  const auto layout = TwoTensors();
  EXPECT_EQ(NumBlocks(*layout), 3);
  EXPECT_EQ(EncodedBytes(*layout, Encoding::kF32, 0), 132u * 4);
  EXPECT_EQ(EncodedBytes(*layout, Encoding::kBf16, 0), 132u * 2);
  EXPECT_EQ(EncodedBytes(*layout, Encoding::kF16, 0), 132u * 2);
  EXPECT_EQ(EncodedBytes(*layout, Encoding::kInt8, 0), 3u * 4 + 132);
  EXPECT_EQ(EncodedBytes(*layout, Encoding::kInt4, 0), 3u * 4 + 65 + 2);
  EXPECT_EQ(EncodedBytes(*layout, Encoding::kTopK, 0.1), 2u * 4 + (13 + 1) * 8);
}

TEST(EncodingFormatTest, TensorPlaces_FollowEachOther) {
  const auto layout = TwoTensors();
  const auto int8 = TensorPlaces(*layout, Encoding::kInt8);
  ASSERT_EQ(int8.size(), 2u);
  EXPECT_EQ(int8[0].first_scale, 0);
  EXPECT_EQ(int8[0].first_code_byte, 12);
  EXPECT_EQ(int8[1].first_scale, 2);
  EXPECT_EQ(int8[1].first_code_byte, 12 + 129);
  EXPECT_EQ(TensorPlaces(*layout, Encoding::kInt4)[1].first_code_byte, 12 + 65);
}

TEST(EncodingFormatTest, TopKCount_RoundsUpWithinTheTensor) {
  EXPECT_EQ(TopKCount(100, 0.01), 1);
  EXPECT_EQ(TopKCount(101, 0.01), 2);
  EXPECT_EQ(TopKCount(3, 1e-9), 1);
  EXPECT_EQ(TopKCount(3, 1), 3);
}

}  // namespace
}  // namespace weft
