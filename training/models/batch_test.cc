#include "training/models/batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "training/data/test_data.h"

namespace weft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Read = TaskDescription::Read;

std::string Path(const std::string& name) {
  return absl::StrCat(::testing::TempDir(), "/", ::testing::UnitTest::GetInstance()->current_test_info()->name(), name);
}

std::unique_ptr<DataShard> Shard(const TestSplit& split, int64_t labels = 3) {
  EXPECT_TRUE(WriteTestSplit(Path("split"), split).ok());
  auto shard = DataShard::Open(Path("split"), labels);
  EXPECT_TRUE(shard.ok()) << shard.status();
  return *std::move(shard);
}

Transformer Fifty() {
  Transformer transformer;
  transformer.vocabulary = 50;
  return transformer;
}

std::vector<int64_t> Values(const at::Tensor& t) {
  return {t.const_data_ptr<int64_t>(), t.const_data_ptr<int64_t>() + t.numel()};
}

absl::StatusOr<Batch> Make(std::vector<MemberRows> members, const BatchOptions& options, int64_t* member) {
  return MakeTextBatch(members, options, Fifty(), at::kCPU, member);
}

TEST(TextBatchTest, CutsKeepingTheLastToken) {
  const auto shard = Shard(TestSplit().Add({1, 9, 4, 2}, 0).Add({1, 2}, 1).Add({1, 30, 31, 32, 33, 34, 2}, 2));
  int64_t member = 0;
  const auto batch =
      Make({{shard.get(), {2}, 4}, {shard.get(), {}, 4}, {shard.get(), {1}, 4}}, {.num_labels = 3}, &member);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT(Values(batch->ids), ElementsAre(1, 30, 31, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_THAT(Values(batch->positions), ElementsAre(0, 1, 2, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_EQ(batch->real_tokens, 6);
  EXPECT_THAT(batch->member_tokens, ElementsAre(4, 0, 2));
  EXPECT_THAT(Values(batch->attention.key_offsets), ElementsAre(0, 4, 6));
  EXPECT_THAT(batch->tokens.offsets, ElementsAre(0, 4, 4, 6));
  EXPECT_THAT(batch->rows.offsets, ElementsAre(0, 1, 1, 2));
  EXPECT_THAT(batch->read.offsets, ElementsAre(0, 1, 1, 2));
  EXPECT_THAT(Values(batch->read_places).at(1), 4);
  EXPECT_THAT(Values(batch->targets), ElementsAre(2, 1));
}

TEST(TextBatchTest, KeepsPlacesForAPromptAndReadsTheLastToken) {
  const auto shard = Shard(TestSplit().Add({1, 9, 2}, 0).Add({1, 2}, 1));
  int64_t member = 0;
  const auto batch =
      Make({{shard.get(), {0, 1}, 8}}, {.num_labels = 3, .prompt_tokens = 2, .read = Read::kLast}, &member);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT(Values(batch->ids), ElementsAre(0, 0, 1, 9, 2, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_THAT(Values(batch->prompt_places), ElementsAre(0, 1, 5, 6));
  EXPECT_THAT(Values(batch->read_attention.query_positions), ElementsAre(4, 3));
  EXPECT_EQ(Values(batch->read_places)[0], 4);
  EXPECT_EQ(Values(batch->read_places)[1], 8);
  EXPECT_EQ(batch->real_tokens, 5);
}

TEST(TextBatchTest, RefusesTokensAndLabelsThatDoNotFitNamingWhose) {
  const auto shard = Shard(TestSplit().Add({1, 2}, 0).Add({1, 50, 2}, 1).Add({1, 2}, 2));
  int64_t member = 0;
  const auto refusal = [&](int64_t row, int64_t labels) {
    member = 0;
    return Make({{shard.get(), {0}, 8}, {shard.get(), {row}, 8}}, {.num_labels = labels}, &member).status();
  };
  EXPECT_EQ(refusal(1, 3).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(member, 1);
  EXPECT_THAT(std::string(refusal(1, 3).message()), HasSubstr("row 1 holds token 50, the base's vocabulary has 50"));
  EXPECT_THAT(std::string(refusal(2, 2).message()), HasSubstr("row 2 has label 2, the job has 2 labels"));
  EXPECT_THAT(std::string(refusal(3, 3).message()), HasSubstr("row 3 asked for, the shard has 3"));
}

}  // namespace
}  // namespace weft
