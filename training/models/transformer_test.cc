#include "training/models/transformer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "common/status_macros.h"
#include "training/data/test_data.h"
#include "training/models/test_base.h"

namespace weft {
namespace {

using ::testing::HasSubstr;
using Read = TaskDescription::Read;

// A row alone and the same row among others differ by the order of sums in the matrix products; measured 3e-7.
constexpr double kTolerance = 2e-6;

std::string Path(const std::string& name) {
  return absl::StrCat(::testing::TempDir(), "/", ::testing::UnitTest::GetInstance()->current_test_info()->name(), name);
}

struct Opened {
  BaseDescription description;
  std::unique_ptr<BaseWeights> weights;
  std::unique_ptr<TransformerModel> model;
};

absl::StatusOr<Opened> Open(const TestBase& base) {
  EXPECT_TRUE(base.Write(Path("base")).ok());
  Opened opened;
  WEFT_ASSIGN_OR_RETURN(opened.description, DescribeBase(base.config.dump()));
  WEFT_ASSIGN_OR_RETURN(opened.weights, BaseWeights::Open(Path("base"), opened.description.prefix));
  WEFT_ASSIGN_OR_RETURN(opened.model, TransformerModel::Create(opened.description, *opened.weights, at::kCPU));
  return opened;
}

std::string Refusal(const TestBase& base) {
  const auto opened = Open(base);
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(opened.status().message());
}

std::unique_ptr<DataShard> ThreeRows() {
  EXPECT_TRUE(
      WriteTestSplit(Path("split"), TestSplit().Add({1, 9, 4, 2}, 0).Add({1, 2}, 1).Add({1, 30, 31, 32, 33, 34, 2}, 2))
          .ok());
  return *DataShard::Open(Path("split"), 3);
}

// Last hidden states of the places read, without the fill.
at::Tensor Encode(const Opened& base, const DataShard& shard, const std::vector<int64_t>& rows,
                  Read read = Read::kFirst, at::ScalarType dtype = at::kFloat) {
  const AttachedForm nothing(base.description);
  Pass pass({.form = &nothing, .random = nullptr, .dtype = dtype});
  const std::vector<MemberRows> members = {{.shard = &shard, .rows = rows, .max_length = 16}};
  int64_t member = 0;
  const auto batch = base.model->MakeBatch(members, {.num_labels = 3, .read = read}, &member);
  EXPECT_TRUE(batch.ok()) << batch.status();
  return base.model->Forward(*batch, base.model->linears(), pass).slice(0, 0, batch->read.end(0));
}

double Difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(TransformerModelTest, Forward_RowsDoNotSeeEachOther) {
  const auto opened = Open(TestBase());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto shard = ThreeRows();
  for (const Read read : {Read::kFirst, Read::kLast, Read::kMean}) {
    const at::Tensor together = Encode(*opened, *shard, {0, 1, 2}, read);
    const at::Tensor apart = at::cat(
        {Encode(*opened, *shard, {0}, read), Encode(*opened, *shard, {1}, read), Encode(*opened, *shard, {2}, read)});
    EXPECT_EQ(together.size(1), TestBase::kHidden);
    EXPECT_LT(Difference(together, apart), kTolerance);
    EXPECT_GT(Difference(together, apart.roll(1, 0)), kTolerance);
  }
}

// What is read of the last layer is the same whether it is computed for the places read or for all.
TEST(TransformerModelTest, Forward_ReadsTheSameOfFewerPlaces) {
  const auto opened = Open(TestBase());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto shard = ThreeRows();
  const at::Tensor all = Encode(*opened, *shard, {0, 1, 2}, Read::kMean);  // 4 + 2 + 7 tokens
  const at::Tensor first = Encode(*opened, *shard, {0, 1, 2}, Read::kFirst);
  const at::Tensor last = Encode(*opened, *shard, {0, 1, 2}, Read::kLast);
  ASSERT_EQ(all.size(0), 13);
  for (const auto& [row, places] : {std::pair<int, std::pair<int, int>>{0, {0, 3}}, {1, {4, 5}}, {2, {6, 12}}}) {
    EXPECT_LT(Difference(first[row], all[places.first]), kTolerance);
    EXPECT_LT(Difference(last[row], all[places.second]), kTolerance);
    EXPECT_GT(Difference(last[row], all[places.first]), kTolerance);
  }
}

// Measured 0.02 with states of about 2.
TEST(TransformerModelTest, Forward_Bf16StaysNear) {
  const auto opened = Open(TestBase());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto shard = ThreeRows();
  const at::Tensor full = Encode(*opened, *shard, {0, 1, 2});
  const at::Tensor half = Encode(*opened, *shard, {0, 1, 2}, Read::kFirst, at::kBFloat16);
  EXPECT_EQ(half.scalar_type(), at::kBFloat16);
  EXPECT_LT(Difference(half.to(at::kFloat), full), 0.08);
  EXPECT_GT(Difference(half.to(at::kFloat), full.roll(1, 0)), 0.08);
}

TEST(TransformerModelTest, Forward_WithoutAdapterKeepsNoGraph) {
  const auto opened = Open(TestBase());
  EXPECT_FALSE(Encode(*opened, *ThreeRows(), {0}).requires_grad());
}

TEST(TransformerModelTest, Create_TakesNamesWithAndWithoutPrefix) {
  const auto bare = Open(TestBase()), task = Open(TestBase("bert."));
  ASSERT_TRUE(bare.ok() && task.ok()) << bare.status() << task.status();
  const auto shard = ThreeRows();
  EXPECT_TRUE(Encode(*bare, *shard, {0, 1}).equal(Encode(*task, *shard, {0, 1})));
}

TEST(TransformerModelTest, Create_NamesWhatIsMissingMisshapenOrTooMuch) {
  TestBase base;
  base.Find("layer.1.output.dense.bias").name = "other";
  EXPECT_THAT(Refusal(base),
              HasSubstr("no tensor bert.encoder.layer.1.output.dense.bias (nor encoder.layer.1.output.dense.bias)"));
  base = TestBase();
  base.config["num_hidden_layers"] = 3;
  EXPECT_THAT(Refusal(base), HasSubstr("encoder.layer.2.attention"));
  base = TestBase();
  base.config["num_hidden_layers"] = 1;
  EXPECT_THAT(Refusal(base), HasSubstr("encoder.layer.1.attention.output.LayerNorm.bias [24] is no part of the model"));
  base = TestBase();
  base.Find("layer.0.intermediate.dense.weight").shape = {TestBase::kHidden, TestBase::kIntermediate};
  EXPECT_THAT(Refusal(base),
              HasSubstr("encoder.layer.0.intermediate.dense.weight has shape [24, 40], config.json asks for [40, 24]"));
}

TEST(TransformerModelTest, CheckShard_RefusesRowsOfAnotherTask) {
  const auto opened = Open(TestBase());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto shard = ThreeRows();
  EXPECT_TRUE(opened->model->CheckShard(*shard, "sequence_classification").ok());
  for (const char* task : {"causal_lm", "sentence_embedding"}) {
    EXPECT_EQ(opened->model->CheckShard(*shard, task).code(), absl::StatusCode::kInvalidArgument) << task;
  }
}

}  // namespace
}  // namespace weft
