#include "client/state_store.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "client/state_file.h"
#include "client/testing/test_folders.h"
#include "common/file.h"

namespace weft {
namespace {

std::shared_ptr<const Adapter> Values(const std::vector<TensorSpec>& tensors, float first) {
  auto adapter = std::make_shared<Adapter>(*Layout::Create(tensors));
  for (float& value : adapter->values()) value = first += 0.25f;
  return adapter;
}

// Tensors in another order than that of their names.
KeptState TestState() {
  return {.error = Values({{"m.lora_B.weight", "lora_b", {3, 2}}, {"control.x", "control.lora_a", {2}}}, 1),
          .control = Values({{"control.x", "control.lora_a", {2}}}, 2),
          .local = Values({{"z", "head", {2, 2}}, {"a", "lora_b", {1}}}, 3),
          .rank = 4,
          .round = 17};
}

void ExpectSame(const std::shared_ptr<const Adapter>& found, const std::shared_ptr<const Adapter>& expected) {
  ASSERT_EQ(found == nullptr, expected == nullptr);
  if (found == nullptr) return;
  EXPECT_EQ(found->layout(), expected->layout());
  EXPECT_EQ(found->ContentHash(), expected->ContentHash());
}

void ExpectSame(const KeptState& found, const KeptState& expected) {
  ExpectSame(found.error, expected.error);
  ExpectSame(found.control, expected.control);
  ExpectSame(found.local, expected.local);
  EXPECT_EQ(found.rank, expected.rank);
  EXPECT_EQ(found.round, expected.round);
}

class StateStoreTest : public testing::Test {
 protected:
  std::unique_ptr<StateStore> Open() const { return *StateStore::Open(folder_); }
  std::string Path(const std::string& job = "job", const std::string& client = "a") const {
    return folder_ + "/" + StateFileName(job, client);
  }
  const std::string folder_ = MakeTestFolder("states") + "/made";
};

TEST_F(StateStoreTest, Get_FreshWhenNothingIsKept) {
  const auto state = Open()->Get("job", "a");
  EXPECT_TRUE(state->empty());
  EXPECT_EQ(state->round, 0);
}

TEST_F(StateStoreTest, Put_InMemoryByJobAndClient) {
  const auto store = *StateStore::Open("");
  ASSERT_TRUE(store->Put("job", "a", TestState()).ok());
  ExpectSame(*store->Get("job", "a"), TestState());
  EXPECT_TRUE(store->Get("job", "b")->empty());
  EXPECT_TRUE(store->Get("other", "a")->empty());
}

TEST_F(StateStoreTest, Put_OutlivesTheProcess) {
  ASSERT_TRUE(Open()->Put("job", "a", TestState()).ok());
  KeptState second = TestState();
  second.control = nullptr;
  second.round = 18;
  ASSERT_TRUE(Open()->Put("job", "b", second).ok());
  ExpectSame(*Open()->Get("job", "a"), TestState());
  ExpectSame(*Open()->Get("job", "b"), second);
}

TEST_F(StateStoreTest, Put_ARankAloneIsWritten) {
  ASSERT_TRUE(
      Open()->Put("job", "a", {.error = nullptr, .control = nullptr, .local = nullptr, .rank = 3, .round = 2}).ok());
  EXPECT_EQ(Open()->Get("job", "a")->rank, 3);
}

TEST_F(StateStoreTest, Put_AnEmptyStateIsNotWritten) {
  const auto store = Open();
  KeptState state;
  state.round = 5;
  ASSERT_TRUE(store->Put("job", "a", state).ok());
  EXPECT_EQ(store->Get("job", "a")->round, 5);
  EXPECT_FALSE(std::filesystem::exists(Path()));
}

TEST_F(StateStoreTest, Put_WhatCannotBeWrittenIsKeptInMemoryAndReported) {
  const auto store = Open();
  std::filesystem::remove_all(folder_);
  EXPECT_FALSE(store->Put("job", "a", TestState()).ok());
  EXPECT_EQ(store->Get("job", "a")->round, 17);
}

TEST_F(StateStoreTest, Get_ADamagedFileIsDroppedAndReplaced) {
  ASSERT_TRUE(Open()->Put("job", "a", TestState()).ok());
  const std::string good = *ReadFile(Path());
  for (const size_t at : {size_t{3}, size_t{40}, good.size() / 2, good.size() - 1}) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    ASSERT_TRUE(WriteFileAtomically(Path(), bad).ok());
    EXPECT_EQ(Open()->Get("job", "a")->round, 0) << at;
  }
  ASSERT_TRUE(WriteFileAtomically(Path(), good.substr(0, good.size() - 4)).ok());
  const auto store = Open();
  EXPECT_EQ(store->Get("job", "a")->round, 0);
  ASSERT_TRUE(store->Put("job", "a", TestState()).ok());
  EXPECT_EQ(Open()->Get("job", "a")->round, 17);
}

TEST_F(StateStoreTest, Get_AFileOfAnotherClientIsDropped) {
  ASSERT_TRUE(Open()->Put("job", "a", TestState()).ok());
  std::filesystem::rename(Path(), Path("job", "b"));
  EXPECT_EQ(Open()->Get("job", "b")->round, 0);
  const absl::Status status = ReadStateFile(Path("job", "b"), "job", "b").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(absl::StrContains(status.message(), "client a, expected job and b")) << status;
}

TEST_F(StateStoreTest, EndJob_KeepsOnlyFilesWithLocalTensors) {
  const auto store = Open();
  KeptState without = TestState();
  without.local = nullptr;
  ASSERT_TRUE(store->Put("job", "a", TestState()).ok());
  ASSERT_TRUE(store->Put("job", "b", without).ok());
  ASSERT_TRUE(store->Put("job2", "b", without).ok());
  store->EndJob("job");
  EXPECT_TRUE(std::filesystem::exists(Path("job", "a")));
  EXPECT_FALSE(std::filesystem::exists(Path("job", "b")));
  EXPECT_TRUE(std::filesystem::exists(Path("job2", "b")));
  EXPECT_EQ(store->Get("job", "b")->round, 0);
  EXPECT_EQ(store->Get("job2", "b")->round, 17);
}

TEST(StateFileTest, StateFileName_StaysInItsFolder) {
  EXPECT_EQ(StateFileName("job-1", "a.b"), "job-1@a.b.safetensors");
  EXPECT_EQ(StateFileName("../x", "a@b"), "..%2fx@a%40b.safetensors");
}

TEST(StateFileTest, ReadStateFile_MissingOrOfAnotherFormat) {
  const absl::Status status = ReadStateFile(MakeTestFolder("none") + "/x", "job", "a").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  const std::string base = MakeTestFolder("base");
  WriteTestBase(base);
  EXPECT_EQ(ReadStateFile(base + "/model.safetensors", "job", "a").status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace weft
