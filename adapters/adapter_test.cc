#include "adapters/adapter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <utility>

#include "common/hash.h"

namespace weft {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::shared_ptr<const Layout> SmallLayout() { return *Layout::Create({{"a", "lora_a", {2, 3}}, {"b", "lora_b", {4}}}); }

TEST(AdapterTest, Construct_AlignedZeros) {
  const Adapter adapter(SmallLayout());
  EXPECT_EQ(adapter.values().size(), 10u);
  EXPECT_THAT(adapter.values(), Each(0.0f));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(adapter.values().data()) % 64, 0u);
}

TEST(AdapterTest, Tensor_IsAViewIntoTheBuffer) {
  Adapter adapter(SmallLayout());
  adapter.tensor(*adapter.layout().Find("b"))[1] = 2.5f;
  EXPECT_EQ(adapter.values()[7], 2.5f);
  EXPECT_EQ(std::as_const(adapter).tensor(adapter.layout().tensors()[0]).size(), 6u);
}

TEST(AdapterTest, Bytes_LittleEndianInLayoutOrder) {
  Adapter adapter(SmallLayout());
  adapter.values()[1] = 1.0f;  // 0x3f800000
  EXPECT_EQ(adapter.bytes().size(), 40u);
  EXPECT_EQ(adapter.bytes()[6], std::byte{0x80});
  EXPECT_EQ(adapter.bytes()[7], std::byte{0x3f});
  adapter.mutable_bytes()[7] = std::byte{0xbf};
  EXPECT_EQ(adapter.values()[1], -1.0f);
}

TEST(AdapterTest, Clone_IsIndependent) {
  Adapter adapter(SmallLayout());
  adapter.values()[3] = 1;
  const Adapter copy = adapter.Clone();
  adapter.values()[3] = 2;
  EXPECT_EQ(copy.values()[3], 1.0f);
  EXPECT_EQ(copy.layout_ptr(), adapter.layout_ptr());
}

TEST(AdapterTest, Move_KeepsValues) {
  Adapter adapter(SmallLayout());
  adapter.values()[3] = 1;
  Adapter moved = std::move(adapter);
  EXPECT_EQ(moved.values()[3], 1.0f);
}

TEST(AdapterTest, ContentHash_IsThatOfTheBytes) {
  Adapter adapter(SmallLayout());
  EXPECT_EQ(adapter.ContentHash(), ToHex(Sha256Of(std::string(40, '\0'))));
  const std::string zeros = adapter.ContentHash();
  adapter.values()[9] = -0.0f;  // equal as a number, not as bits
  EXPECT_NE(adapter.ContentHash(), zeros);
}

TEST(AdapterTest, CheckFinite_NamesTensorAndIndex) {
  Adapter adapter(SmallLayout());
  adapter.values()[2] = std::numeric_limits<float>::max();
  adapter.values()[3] = std::numeric_limits<float>::denorm_min();
  EXPECT_TRUE(CheckFinite(adapter).ok());
  adapter.values()[7] = -kInf;
  adapter.values()[9] = kNan;
  const absl::Status status = CheckFinite(adapter);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor b holds Inf at index 1"));
  adapter.values()[7] = 0;
  EXPECT_THAT(std::string(CheckFinite(adapter).message()), HasSubstr("tensor b holds NaN at index 3"));
}

TEST(AdapterTest, CheckFinite_OfARangeLooksAtNothingElse) {
  Adapter adapter(SmallLayout());
  adapter.values()[4] = kNan;
  EXPECT_TRUE(CheckFinite(adapter, 0, 4).ok());
  EXPECT_FALSE(CheckFinite(adapter, 4, 5).ok());
  EXPECT_TRUE(CheckFinite(adapter, 5, 10).ok());
  EXPECT_TRUE(CheckFinite(adapter, 4, 4).ok());
}

}  // namespace
}  // namespace weft
