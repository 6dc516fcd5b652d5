#include "training/models/encoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "training/data/test_data.h"
#include "training/models/test_base.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

// A row alone and the same row among others differ by the order of sums in the matrix products; measured 3e-7.
constexpr double kTolerance = 2e-6;

std::string Path(const std::string& name) {
  return absl::StrCat(::testing::TempDir(), "/", ::testing::UnitTest::GetInstance()->current_test_info()->name(), name);
}

EncoderConfig Config(const TestBase& base) { return *ReadEncoderConfig(**FindFamily("bert"), base.config); }

struct Opened {
  std::unique_ptr<BaseWeights> weights;
  std::unique_ptr<Encoder> encoder;
};

absl::StatusOr<Opened> Open(const TestBase& base) {
  EXPECT_TRUE(base.Write(Path("base")).ok());
  Opened opened;
  WEFT_ASSIGN_OR_RETURN(opened.weights, BaseWeights::Open(Path("base")));
  WEFT_ASSIGN_OR_RETURN(opened.encoder, Encoder::Create(**FindFamily("bert"), Config(base), *opened.weights, at::kCPU));
  return opened;
}

std::string Refusal(const TestBase& base) {
  const auto opened = Open(base);
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(opened.status().message());
}

std::unique_ptr<DataShard> Shard(const TestSplit& split) {
  EXPECT_TRUE(WriteTestSplit(Path("split"), split).ok());
  return *DataShard::Open(Path("split"), 3);
}

std::unique_ptr<DataShard> ThreeRows() {
  return Shard(TestSplit().Add({1, 9, 4, 2}, 0).Add({1, 2}, 1).Add({1, 30, 31, 32, 33, 34, 2}, 2));
}

at::Tensor Encode(const Encoder& encoder, const DataShard& shard, const std::vector<int64_t>& rows,
                  int64_t max_length = 16) {
  DropoutSource none;
  const AttachedForm no_form(encoder.linears().size());
  return encoder.Forward(*PackRows(shard, rows, max_length, 3, encoder.config().vocabulary, at::kCPU),
                         encoder.linears(), no_form, none);
}

double Difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(EncoderTest, Forward_RowsDoNotSeeEachOther) {
  const auto opened = Open(TestBase());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto shard = ThreeRows();
  const at::Tensor together = Encode(*opened->encoder, *shard, {0, 1, 2});
  const at::Tensor apart = at::cat({Encode(*opened->encoder, *shard, {0}), Encode(*opened->encoder, *shard, {1}),
                                    Encode(*opened->encoder, *shard, {2})});
  EXPECT_EQ(together.size(1), TestBase::kHidden);
  EXPECT_LT(Difference(together, apart), kTolerance);
  EXPECT_GT(Difference(together, apart.roll(1, 0)), kTolerance);
}

TEST(EncoderTest, Forward_WithoutAdapterKeepsNoGraph) {
  const auto opened = Open(TestBase());
  EXPECT_FALSE(Encode(*opened->encoder, *ThreeRows(), {0}).requires_grad());
}

TEST(EncoderTest, Create_TakesNamesWithAndWithoutPrefix) {
  const auto bare = Open(TestBase()), task = Open(TestBase("bert."));
  ASSERT_TRUE(bare.ok() && task.ok()) << bare.status() << task.status();
  EXPECT_EQ(task->encoder->linears().front().name(), "bert.encoder.layer.0.attention.self.query");
  EXPECT_EQ(bare->encoder->linears().back().name(), "bert.pooler.dense");
  EXPECT_EQ(bare->encoder->linears().size(), 13u);
}

TEST(EncoderTest, Create_NamesWhatIsMissingOrMisshapen) {
  TestBase base;
  base.Find("layer.1.output.dense.bias").name = "other";
  EXPECT_THAT(Refusal(base),
              HasSubstr("no tensor bert.encoder.layer.1.output.dense.bias (nor encoder.layer.1.output.dense.bias)"));
  base = TestBase();
  base.config["num_hidden_layers"] = 3;
  EXPECT_THAT(Refusal(base), HasSubstr("encoder.layer.2.attention.self.query.weight"));
  base = TestBase();
  base.Find("layer.0.intermediate.dense.weight").shape = {TestBase::kHidden, TestBase::kIntermediate};
  EXPECT_THAT(Refusal(base),
              HasSubstr("encoder.layer.0.intermediate.dense.weight has shape [24, 40], config.json asks for [40, 24]"));
}

TEST(BaseWeightsTest, Open_RefusesFolderWithoutWeights) {
  EXPECT_EQ(BaseWeights::Open(Path("nowhere")).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(MakeDirectories(Path("empty")).ok());
  const auto empty = BaseWeights::Open(Path("empty"));
  EXPECT_EQ(empty.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(empty.status().message()), HasSubstr("no *.safetensors"));
}

TEST(BaseWeightsTest, Open_RefusesATensorInTwoFiles) {
  const std::vector<float> values = {1};
  ASSERT_TRUE(MakeDirectories(Path("twice")).ok());
  for (const char* name : {"/a.safetensors", "/b.safetensors"}) {
    ASSERT_TRUE(WriteSafetensors(Path("twice") + name, {TestTensor("x", "F32", {1}, values)}).ok());
  }
  EXPECT_THAT(std::string(BaseWeights::Open(Path("twice")).status().message()),
              HasSubstr("tensor x is in another file"));
}

TEST(BaseWeightsTest, Get_UsesF32InPlaceWidensHalvesAndRefusesTheRest) {
  const std::vector<float> floats = {1.5, -2};
  const std::vector<uint16_t> bf16 = {0x3fc0, 0xc000}, f16 = {0x3e00, 0xc000};
  const std::vector<int64_t> integers = {1, 2};
  ASSERT_TRUE(MakeDirectories(Path("w")).ok());
  ASSERT_TRUE(WriteSafetensors(Path("w/x.safetensors"),
                               {TestTensor("f32", "F32", {2}, floats), TestTensor("bf16", "BF16", {2}, bf16),
                                TestTensor("f16", "F16", {2}, f16), TestTensor("i64", "I64", {2}, integers)})
                  .ok());
  const auto weights = BaseWeights::Open(Path("w"));
  ASSERT_TRUE(weights.ok()) << weights.status();
  const at::Tensor first = *(*weights)->Get("", "f32", {2}, at::kCPU),
                   second = *(*weights)->Get("p.", "f32", {2}, at::kCPU);
  EXPECT_EQ(first.data_ptr(), second.data_ptr());
  for (const char* name : {"f32", "bf16", "f16"}) {
    const at::Tensor tensor = *(*weights)->Get("", name, {2}, at::kCPU);
    EXPECT_EQ(tensor[0].item<float>(), 1.5f) << name;
    EXPECT_EQ(tensor[1].item<float>(), -2.0f) << name;
  }
  const auto refused = (*weights)->Get("", "i64", {2}, at::kCPU);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("tensor i64 has dtype I64, expected F32, BF16 or F16"));
}

// Files of others may start their data anywhere.
TEST(BaseWeightsTest, Get_CopiesWhatIsNotAligned) {
  std::string header = R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  header.resize(header.size() / 4 * 4 + 5, ' ');
  std::string content(8, '\0');
  content[0] = static_cast<char>(header.size());
  const float value = 2.5;
  content += header + std::string(reinterpret_cast<const char*>(&value), sizeof(value));
  ASSERT_TRUE(MakeDirectories(Path("odd")).ok());
  ASSERT_TRUE(WriteFileAtomically(Path("odd/x.safetensors"), std::string_view(content)).ok());
  const auto weights = BaseWeights::Open(Path("odd"));
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->Get("", "x", {1}, at::kCPU)->item<float>(), 2.5f);
}

TEST(PackRowsTest, CutsKeepingTheLastToken) {
  const auto shard = ThreeRows();
  const auto batch = PackRows(*shard, std::vector<int64_t>{2, 1}, 4, 3, TestBase::kVocabulary, at::kCPU);
  ASSERT_TRUE(batch.ok()) << batch.status();
  const auto values = [](const at::Tensor& t) {
    return std::vector<int64_t>(t.const_data_ptr<int64_t>(), t.const_data_ptr<int64_t>() + t.numel());
  };
  EXPECT_THAT(values(batch->ids), ::testing::ElementsAre(1, 30, 31, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_THAT(values(batch->positions), ::testing::ElementsAre(0, 1, 2, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_EQ(batch->tokens(), 6);
  EXPECT_THAT(values(batch->offsets), ::testing::ElementsAre(0, 4, 6));
  EXPECT_THAT(values(batch->first), ::testing::ElementsAre(0, 4));
  EXPECT_THAT(values(batch->labels), ::testing::ElementsAre(2, 1));
}

TEST(PackRowsTest, RefusesTokensAndLabelsThatDoNotFitTheBase) {
  const auto shard = Shard(TestSplit().Add({1, 2}, 0).Add({1, 50, 2}, 1).Add({1, 2}, 2));
  const auto refusal = [&](int64_t row, int64_t labels) {
    return PackRows(*shard, std::vector<int64_t>{0, row}, 8, labels, TestBase::kVocabulary, at::kCPU).status();
  };
  EXPECT_EQ(refusal(1, 3).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refusal(1, 3).message()), HasSubstr("row 1 holds token 50, the base's vocabulary has 50"));
  EXPECT_THAT(std::string(refusal(2, 2).message()), HasSubstr("row 2 has label 2, the job has 2 labels"));
  EXPECT_THAT(std::string(refusal(3, 3).message()), HasSubstr("row 3 asked for, the shard has 3"));
}

}  // namespace
}  // namespace weft
