#include "server/journal/tensor_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

namespace weft::server {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<const Layout> SmallLayout(int64_t size = 4) {
  return *Layout::Create({TensorSpec{"t", "head", {size}}});
}

Adapter Filled(float value, int64_t size = 4) {
  Adapter adapter(SmallLayout(size));
  for (float& x : adapter.values()) x = value;
  return adapter;
}

class TensorStoreTest : public testing::Test {
 protected:
  TensorStoreTest()
      : folder_(testing::TempDir() + "/" + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(folder_);
    store_ = *TensorStore::Open(folder_);
  }
  bool Exists(const std::string& hash) { return std::filesystem::exists(folder_ + "/" + hash); }

  std::string folder_;
  std::unique_ptr<TensorStore> store_;
};

TEST_F(TensorStoreTest, Get_GivesTheSameBits) {
  const Adapter adapter = Filled(0.1f);
  const std::string hash = store_->Put(adapter)->hash();
  EXPECT_EQ(hash, adapter.ContentHash());
  const auto back = store_->Get(hash, SmallLayout());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(std::memcmp(back->bytes().data(), adapter.bytes().data(), adapter.bytes().size()), 0);
}

TEST_F(TensorStoreTest, Get_MissingIsDataLoss) {
  EXPECT_EQ(store_->Get(std::string(64, '0'), SmallLayout()).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(TensorStoreTest, GetBytes_GivesWhatWasPut) {
  const std::string bytes = "an encoded update";
  const std::string hash = store_->Put(std::as_bytes(std::span(bytes)))->hash();
  EXPECT_EQ(*store_->GetBytes(hash), bytes);
  std::ofstream(folder_ + "/" + hash) << "something else...";
  EXPECT_EQ(store_->GetBytes(hash).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store_->GetBytes(std::string(64, '0')).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(TensorStoreTest, Hold_KeepsWhatIsStoredFromRemoval) {
  const std::string hash = store_->Put(Filled(1))->hash();
  {
    const TensorStore::Pin pin = store_->Hold(hash);
    store_->Remove(hash);
    EXPECT_TRUE(Exists(hash));
  }
  store_->Remove(hash);
  EXPECT_FALSE(Exists(hash));
}

TEST_F(TensorStoreTest, Get_ChangedContentIsDataLoss) {
  const std::string hash = store_->Put(Filled(1))->hash();
  std::ofstream(folder_ + "/" + hash) << "0123456789abcdef";
  const absl::Status status = store_->Get(hash, SmallLayout()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr(hash));
}

TEST_F(TensorStoreTest, Get_OtherSizeIsDataLoss) {
  const std::string hash = store_->Put(Filled(1))->hash();
  const absl::Status status = store_->Get(hash, SmallLayout(5)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("holds 16 bytes, expected 20"));
}

TEST_F(TensorStoreTest, Remove_WaitsForThePin) {
  std::string hash;
  {
    const auto pin = store_->Put(Filled(1));
    hash = pin->hash();
    store_->Remove(hash);
    EXPECT_TRUE(Exists(hash));
    { const auto again = store_->Put(Filled(1)); }
    store_->Remove(hash);
    EXPECT_TRUE(Exists(hash));
  }
  store_->Remove(hash);
  EXPECT_FALSE(Exists(hash));
  store_->Remove(hash);
}

TEST_F(TensorStoreTest, RemoveAllBut_KeepsNeededAndPinned) {
  const std::string needed = store_->Put(Filled(1))->hash();
  const std::string other = store_->Put(Filled(2))->hash();
  const auto pinned = store_->Put(Filled(3));
  std::ofstream(folder_ + "/half-written") << "x";
  ASSERT_TRUE(store_->RemoveAllBut({needed}).ok());
  EXPECT_TRUE(Exists(needed));
  EXPECT_TRUE(Exists(pinned->hash()));
  EXPECT_FALSE(Exists(other));
  EXPECT_FALSE(Exists("half-written"));
}

}  // namespace
}  // namespace weft::server
