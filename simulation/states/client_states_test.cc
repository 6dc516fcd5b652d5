#include "simulation/states/client_states.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "common/file.h"
#include "server/testing/disk_full.h"

namespace weft::simulation {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class ClientStatesTest : public testing::Test {
 protected:
  ClientStatesTest() : folder_(testing::TempDir() + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(folder_);
  }
  std::unique_ptr<ClientStates> Open(int64_t round, int64_t memory_bytes = 1 << 20) {
    auto states = ClientStates::Open({.folder = folder_, .memory_bytes = memory_bytes, .round = round});
    EXPECT_TRUE(states.ok()) << states.status();
    return states.ok() ? *std::move(states) : nullptr;
  }
  absl::StatusCode CodeOfOpen(int64_t round) {
    return ClientStates::Open({.folder = folder_, .memory_bytes = 0, .round = round}).status().code();
  }
  static std::shared_ptr<const Adapter> Tensors(const std::string& role, int64_t size, float value) {
    auto adapter = std::make_shared<Adapter>(*Layout::Create({{"t", role, {size}}}));
    for (float& element : adapter->values()) element = value;
    return adapter;
  }
  static KeptState State(float value, int64_t size = 3) {
    KeptState state;
    state.local = Tensors("lora_b", size, value);
    state.control = Tensors("control.lora_b", size, -value);
    state.rank = 4;
    state.round = 7;
    return state;
  }
  // The value a state was made with; 0: fresh.
  static float ValueOf(ClientStates& states, int64_t client) {
    const auto state = states.Get(client);
    EXPECT_TRUE(state.ok()) << state.status();
    return (*state)->local == nullptr ? 0 : (*state)->local->values()[0];
  }
  std::string log() const { return folder_ + "/states.log"; }

  const std::string folder_;
};

TEST_F(ClientStatesTest, Get_FreshUntilStaged) {
  const auto states = Open(0);
  EXPECT_TRUE(states->Get(5).value()->empty());
  states->Stage(5, State(2));
  EXPECT_EQ(ValueOf(*states, 5), 2);
  EXPECT_EQ(ValueOf(*states, 6), 0);
}

TEST_F(ClientStatesTest, Commit_SurvivesAndKeepsEverything) {
  {
    const auto states = Open(0);
    states->Stage(5, State(2));
    states->Stage(9, State(3, 8));
    ASSERT_TRUE(states->Commit(1).ok());
    states->Stage(5, State(4));
    ASSERT_TRUE(states->Commit(2).ok());
    states->Stage(5, State(5));  // not committed
  }
  const auto states = Open(2);
  EXPECT_EQ(states->clients(), 2);
  const auto state = *states->Get(5);
  EXPECT_EQ(state->local->values()[0], 4);
  EXPECT_EQ(state->control->values()[2], -4);
  EXPECT_EQ(state->local->layout().tensors()[0].role, "lora_b");
  EXPECT_EQ(state->error, nullptr);
  EXPECT_EQ(state->rank, 4);
  EXPECT_EQ(state->round, 7);
  EXPECT_EQ(ValueOf(*states, 9), 3);
}

TEST_F(ClientStatesTest, Open_ForgetsRoundsThatWereNotCommittedElsewhere) {
  {
    const auto states = Open(0);
    states->Stage(5, State(2));
    ASSERT_TRUE(states->Commit(1).ok());
    states->Stage(5, State(4));
    states->Stage(6, State(6));
    ASSERT_TRUE(states->Commit(2).ok());
  }
  auto states = Open(1);
  EXPECT_EQ(ValueOf(*states, 5), 2);
  EXPECT_EQ(ValueOf(*states, 6), 0);
  states->Stage(6, State(8));
  ASSERT_TRUE(states->Commit(2).ok());
  states = Open(2);
  EXPECT_EQ(ValueOf(*states, 5), 2);
  EXPECT_EQ(ValueOf(*states, 6), 8);
}

TEST_F(ClientStatesTest, Open_CutsWhatAKillHasLeft) {
  int64_t first = 0, second = 0;
  {
    const auto states = Open(0);
    states->Stage(5, State(2));
    ASSERT_TRUE(states->Commit(1).ok());
    first = static_cast<int64_t>(fs::file_size(log()));
    states->Stage(5, State(4, 5));
    ASSERT_TRUE(states->Commit(2).ok());
    second = static_cast<int64_t>(fs::file_size(log()));
  }
  const std::string whole = *ReadFile(log());
  for (int64_t size = first; size < second; ++size) {
    ASSERT_TRUE(WriteFileAtomically(log(), whole.substr(0, size)).ok());
    const auto states = Open(1);
    ASSERT_EQ(ValueOf(*states, 5), 2) << size;
    ASSERT_EQ(static_cast<int64_t>(fs::file_size(log())), first);
  }
  for (int64_t size = 1; size < first; size += 7) {
    ASSERT_TRUE(WriteFileAtomically(log(), whole.substr(0, size)).ok());
    ASSERT_EQ(CodeOfOpen(1), absl::StatusCode::kDataLoss) << size;
  }
  ASSERT_TRUE(WriteFileAtomically(log(), whole.substr(0, first)).ok());
  EXPECT_EQ(CodeOfOpen(2), absl::StatusCode::kDataLoss) << "round 2 is missing";
}

TEST_F(ClientStatesTest, Open_RefusesDamage) {
  {
    const auto states = Open(0);
    states->Stage(5, State(2));
    ASSERT_TRUE(states->Commit(1).ok());
  }
  const std::string whole = *ReadFile(log());
  for (size_t at = 0; at < whole.size(); at += 11) {
    std::string damaged = whole;
    damaged[at] ^= 1;
    ASSERT_TRUE(WriteFileAtomically(log(), damaged).ok());
    ASSERT_EQ(CodeOfOpen(1), absl::StatusCode::kDataLoss) << at;
  }
}

TEST_F(ClientStatesTest, Memory_IsBoundedWhereThereIsADisk) {
  constexpr int64_t kBytes = 100'000;
  const auto states = Open(0, kBytes);
  for (int64_t client = 0; client < 200; ++client) states->Stage(client, State(static_cast<float>(client + 1), 1'000));
  ASSERT_TRUE(states->Commit(1).ok());
  EXPECT_LE(states->memory_bytes(), kBytes);
  EXPECT_EQ(states->clients(), 200);
  for (int64_t client = 0; client < 200; ++client) ASSERT_EQ(ValueOf(*states, client), static_cast<float>(client + 1));
  EXPECT_LE(states->memory_bytes(), kBytes);
  EXPECT_GT(states->memory_bytes(), kBytes / 2) << "and used";
}

TEST_F(ClientStatesTest, Commit_WritesAnewWhenMostIsOld) {
  auto states = Open(0, 0);
  int64_t largest = 0;
  for (int64_t round = 1; round <= 40; ++round) {
    for (int64_t client = 0; client < 4; ++client) {
      if (client != 3 || round == 1) states->Stage(client, State(static_cast<float>(10 * round + client), 10'000));
    }
    ASSERT_TRUE(states->Commit(round).ok());
    largest = std::max<int64_t>(largest, fs::file_size(log()));
  }
  EXPECT_LT(largest, 2'000'000) << "40 rounds of 240 kB";
  EXPECT_EQ(ValueOf(*states, 3), 13) << "a state from long ago";
  states = Open(40);
  EXPECT_EQ(ValueOf(*states, 0), 400);
  EXPECT_EQ(ValueOf(*states, 3), 13);
}

TEST_F(ClientStatesTest, Open_ForgetsAKilledRewrite) {
  {
    const auto states = Open(0);
    states->Stage(5, State(2));
    ASSERT_TRUE(states->Commit(1).ok());
  }
  ASSERT_TRUE(WriteFileAtomically(log() + ".new", std::string_view("half")).ok());
  EXPECT_EQ(ValueOf(*Open(1), 5), 2);
  EXPECT_FALSE(fs::exists(log() + ".new"));
}

TEST_F(ClientStatesTest, Commit_OnAFullDiskChangesNothingAndMayBeRepeated) {
  const auto states = Open(0);
  states->Stage(5, State(2));
  ASSERT_TRUE(states->Commit(1).ok());
  const auto size = fs::file_size(log());
  states->Stage(5, State(4, 7));
  {
    const server::DiskFull full;
    const absl::Status status = states->Commit(2);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("free some space"));
  }
  EXPECT_EQ(fs::file_size(log()), size);
  EXPECT_EQ(ValueOf(*states, 5), 4) << "still staged";
  ASSERT_TRUE(states->Commit(2).ok());
  EXPECT_EQ(ValueOf(*Open(2), 5), 4);
}

TEST_F(ClientStatesTest, WithoutStates_NothingIsWritten) {
  const auto states = Open(0);
  states->Stage(5, KeptState());
  ASSERT_TRUE(states->Commit(1).ok());
  EXPECT_EQ(fs::file_size(log()), 0);
  EXPECT_NE(Open(1), nullptr);
}

TEST_F(ClientStatesTest, WithoutFolder_AllStaysInMemory) {
  const auto states = ClientStates::Open({.folder = "", .memory_bytes = 0, .round = 0});
  ASSERT_TRUE(states.ok());
  (*states)->Stage(5, State(2));
  ASSERT_TRUE((*states)->Commit(1).ok());
  EXPECT_EQ(ValueOf(**states, 5), 2);
}

}  // namespace
}  // namespace weft::simulation
