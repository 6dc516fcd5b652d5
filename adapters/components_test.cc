#include "adapters/components.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace weft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::shared_ptr<const Layout> SentLayoutOf() {
  return *Layout::Create(
      {{"m.lora_A.weight", "lora_a", {3, 2}}, {"m.lora_B.weight", "lora_b", {2, 3}}, {"h", "head", {1}}});
}

Adapter Counting(const std::shared_ptr<const Layout>& layout) {
  Adapter adapter(layout);
  float next = 0;
  for (float& value : adapter.values()) value = next += 1;
  return adapter;
}

void ExpectRefused(const Layout& sent, const std::string& components, const std::string& why) {
  const absl::Status status = PackedLayout(sent, components).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
  EXPECT_THAT(std::string(status.message()), HasSubstr(why));
}

TEST(ComponentsTest, ComponentBits_LeastSignificantFirst) {
  EXPECT_EQ(ComponentBits({true, false, true}), std::string(1, '\5'));
  EXPECT_EQ(ComponentBits({false, false, false, false, false, false, false, false, true}), std::string("\0\1", 2));
  EXPECT_EQ(CountComponents(std::string("\5\1", 2)), 3);
}

TEST(ComponentsTest, NumComponents_OfAllFactors) { EXPECT_EQ(NumComponents(*SentLayoutOf()), 6); }

TEST(ComponentsTest, Pack_KeepsRowsOfAAndColumnsOfB) {
  const auto sent = SentLayoutOf();
  const std::string components = ComponentBits({false, true, true, true, false, false});
  const auto packed = PackedLayout(*sent, components);
  ASSERT_TRUE(packed.ok()) << packed.status();
  const Adapter adapter = Pack(Counting(sent), components, *packed);
  EXPECT_THAT(adapter.values(), ElementsAre(3, 4, 5, 6, 7, 10, 13));
  EXPECT_THAT(Unpack(adapter, components, sent).values(), ElementsAre(0, 0, 3, 4, 5, 6, 7, 0, 0, 10, 0, 0, 13));
}

TEST(ComponentsTest, PackedLayout_AFactorWithoutComponentsDoesNotTravel) {
  const auto sent = SentLayoutOf();
  const std::string components = ComponentBits({false, false, false, false, true, false});
  const auto packed = *PackedLayout(*sent, components);
  ASSERT_EQ(packed->tensors().size(), 2u);
  EXPECT_EQ(packed->tensors()[0].name, "m.lora_B.weight");
  EXPECT_THAT(Unpack(Pack(Counting(sent), components, packed), components, sent).values(),
              ElementsAre(0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 11, 0, 13));
}

TEST(ComponentsTest, PackedLayout_AllAreTheSentLayout) {
  const auto sent = SentLayoutOf();
  EXPECT_EQ(**PackedLayout(*sent, ComponentBits(std::vector<bool>(6, true))), *sent);
}

TEST(ComponentsTest, PackedLayout_RefusesWhatIsNoBitmapOfTheFactors) {
  const auto sent = SentLayoutOf();
  ExpectRefused(*sent, "", "found 0 bytes, expected 1");
  ExpectRefused(*sent, std::string(2, '\1'), "found 2 bytes, expected 1");
  ExpectRefused(*sent, std::string(1, '\x41'), "bits beyond the 6 components");
  const auto factors = *Layout::Create({{"m.lora_A.weight", "lora_a", {8, 2}}});
  ExpectRefused(*factors, std::string(1, '\0'), "found none set");
  EXPECT_TRUE(PackedLayout(*factors, std::string(1, '\x80')).ok());
}

}  // namespace
}  // namespace weft
