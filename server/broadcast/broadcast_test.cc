#include "server/broadcast/broadcast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace weft::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// 6 + 4 values of A and B of one module, 3 of a head, and what clients never see.
std::shared_ptr<Adapter> State() {
  auto state = std::make_shared<Adapter>(*Layout::Create({{"m.lora_A.weight", "lora_a", {2, 3}},
                                                          {"m.lora_B.weight", "lora_b", {2, 2}},
                                                          {"head.bias", "head", {3}},
                                                          {"server.m.head.bias", "server.m.head", {3}}}));
  std::iota(state->values().begin(), state->values().end(), 1.0f);
  return state;
}

std::vector<float> ValuesOf(const Adapter& adapter) { return {adapter.values().begin(), adapter.values().end()}; }

TEST(BroadcastTest, Layout_IsOfTheBroadcastRoles) {
  const auto broadcast = *Broadcast::Create(State());
  EXPECT_EQ(broadcast->layout()->tensors().size(), 3u);
  EXPECT_EQ(broadcast->layout()->Find("server.m.head.bias"), nullptr);
  EXPECT_EQ(broadcast->hashes().size(), 3u);
}

TEST(BroadcastTest, SizeBytes_OfAllAndOfSome) {
  const auto broadcast = *Broadcast::Create(State());
  EXPECT_EQ(broadcast->SizeBytes({}), 4u * 13);
  EXPECT_EQ(broadcast->SizeBytes({"head", "lora_a"}), 4u * 9);
}

TEST(BroadcastTest, Lacking_OnlyRolesWhoseValuesOrShapesChanged) {
  const std::shared_ptr<Adapter> before = State();
  const RoleHashes held = (*Broadcast::Create(before))->hashes();
  const std::shared_ptr<Adapter> after = State();
  after->values()[7] += 1;   // in B
  after->values()[14] += 1;  // the coordinator's own
  EXPECT_THAT((*Broadcast::Create(after))->Lacking(held), ElementsAre("lora_b"));
  after->values()[0] += 1;  // in A
  EXPECT_THAT((*Broadcast::Create(after))->Lacking(held), ElementsAre("lora_a", "lora_b"));
  EXPECT_THAT((*Broadcast::Create(after))->Lacking({}), IsEmpty()) << "all";
  auto reshaped = std::make_shared<Adapter>(*Layout::Create(
      {{"m.lora_A.weight", "lora_a", {3, 2}}, {"m.lora_B.weight", "lora_b", {2, 2}}, {"head.bias", "head", {3}}}));
  std::iota(reshaped->values().begin(), reshaped->values().end(), 1.0f);
  EXPECT_THAT((*Broadcast::Create(reshaped))->Lacking(held), ElementsAre("lora_a"));
}

TEST(BroadcastTest, Lacking_NothingIsTheSmallestRole) {
  const auto broadcast = *Broadcast::Create(State());
  EXPECT_THAT(broadcast->Lacking(broadcast->hashes()), ElementsAre("head"));
}

TEST(BroadcastTest, Create_NoBroadcastRoleIsRefused) {
  auto state = std::make_shared<const Adapter>(*Layout::Create({{"server.m", "server.m", {3}}}));
  EXPECT_EQ(Broadcast::Create(state).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(BroadcastTest, TensorsOf_NoneOfTheRolesIsNull) {
  EXPECT_EQ(TensorsOf(*State(), {"base_a", "base_b"}), nullptr);
  EXPECT_THAT(ValuesOf(*TensorsOf(*State(), {"head"})), ElementsAre(11, 12, 13));
}

}  // namespace
}  // namespace weft::server
