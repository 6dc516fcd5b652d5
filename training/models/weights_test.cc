#include "training/models/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "training/data/test_data.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

std::string Path(const std::string& name) {
  return absl::StrCat(::testing::TempDir(), "/", ::testing::UnitTest::GetInstance()->current_test_info()->name(), name);
}

absl::Status WriteOne(const std::string& path, const std::vector<std::string>& names) {
  const std::vector<float> values = {1};
  std::vector<SafetensorToWrite> tensors;
  for (const std::string& name : names) tensors.push_back(TestTensor(name, "F32", {1}, values));
  return WriteSafetensors(path, tensors);
}

TEST(BaseWeightsTest, Open_RefusesFolderWithoutWeights) {
  EXPECT_EQ(BaseWeights::Open(Path("nowhere"), "").status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(MakeDirectories(Path("empty")).ok());
  const auto empty = BaseWeights::Open(Path("empty"), "");
  EXPECT_EQ(empty.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(empty.status().message()), HasSubstr("no *.safetensors"));
}

TEST(BaseWeightsTest, Open_RefusesATensorInTwoFiles) {
  const std::vector<float> values = {1};
  ASSERT_TRUE(MakeDirectories(Path("twice")).ok());
  for (const char* name : {"/a.safetensors", "/b.safetensors"}) {
    ASSERT_TRUE(WriteSafetensors(Path("twice") + name, {TestTensor("x", "F32", {1}, values)}).ok());
  }
  EXPECT_THAT(std::string(BaseWeights::Open(Path("twice"), "").status().message()),
              HasSubstr("tensor x is in another file"));
}

TEST(BaseWeightsTest, Get_UsesFloatsInPlaceAndRefusesTheRest) {
  const std::vector<float> floats = {1.5, -2};
  const std::vector<uint16_t> bf16 = {0x3fc0, 0xc000}, f16 = {0x3e00, 0xc000};
  const std::vector<int64_t> integers = {1, 2};
  ASSERT_TRUE(MakeDirectories(Path("w")).ok());
  ASSERT_TRUE(WriteSafetensors(Path("w/x.safetensors"),
                               {TestTensor("f32", "F32", {2}, floats), TestTensor("bf16", "BF16", {2}, bf16),
                                TestTensor("f16", "F16", {2}, f16), TestTensor("i64", "I64", {2}, integers)})
                  .ok());
  const auto weights = BaseWeights::Open(Path("w"), "p.");
  ASSERT_TRUE(weights.ok()) << weights.status();
  const at::Tensor first = *(*weights)->Get("f32", {2}), second = *(*weights)->Get("p.f32", {2});
  EXPECT_EQ(first.data_ptr(), second.data_ptr());
  for (const char* name : {"f32", "bf16", "f16"}) {
    const at::Tensor tensor = *(*weights)->Get(name, {2});
    EXPECT_EQ(tensor.to(at::kFloat)[0].item<float>(), 1.5f) << name;
    EXPECT_EQ(tensor.to(at::kFloat)[1].item<float>(), -2.0f) << name;
  }
  const auto refused = (*weights)->Get("i64", {2});
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
  const auto weights = BaseWeights::Open(Path("odd"), "");
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->Get("x", {1})->item<float>(), 2.5f);
}

// The index says which files count; a stray one beside them does not.
TEST(BaseWeightsTest, Open_ReadsTheFilesOfTheIndex) {
  ASSERT_TRUE(MakeDirectories(Path("i")).ok());
  ASSERT_TRUE(WriteOne(Path("i/one.safetensors"), {"a"}).ok());
  ASSERT_TRUE(WriteOne(Path("i/two.safetensors"), {"b"}).ok());
  ASSERT_TRUE(WriteOne(Path("i/stray.safetensors"), {"a"}).ok());
  const std::string index = Path("i/model.safetensors.index.json");
  const auto write = [&](std::string_view text) { ASSERT_TRUE(WriteFileAtomically(index, text).ok()); };
  write(R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  const auto weights = BaseWeights::Open(Path("i"), "");
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_TRUE((*weights)->Get("a", {1}).ok());
  EXPECT_TRUE((*weights)->Get("b", {1}).ok());
  write(R"({"weight_map": {"a": "../one.safetensors"}})");
  EXPECT_THAT(std::string(BaseWeights::Open(Path("i"), "").status().message()), HasSubstr("a file that is no name"));
  write("[]");
  EXPECT_THAT(std::string(BaseWeights::Open(Path("i"), "").status().message()), HasSubstr("no weight_map"));
}

TEST(BaseWeightsTest, Get_KnowsTheOldNamesOfNorms) {
  ASSERT_TRUE(MakeDirectories(Path("n")).ok());
  ASSERT_TRUE(WriteOne(Path("n/model.safetensors"), {"bert.norm.gamma", "norm2.beta"}).ok());
  const auto weights = BaseWeights::Open(Path("n"), "bert.");
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_TRUE((*weights)->Get("bert.norm.weight", {1}).ok());
  EXPECT_TRUE((*weights)->Get("bert.norm2.bias", {1}).ok());
  EXPECT_FALSE((*weights)->Get("bert.norm.bias", {1}).ok());
}

TEST(BaseWeightsTest, CheckAllTaken_NamesWhatNobodyTook) {
  ASSERT_TRUE(MakeDirectories(Path("s")).ok());
  ASSERT_TRUE(WriteOne(Path("s/model.safetensors"), {"bert.a", "cls.x", "bert.cls.y", "bert.left"}).ok());
  const auto weights = BaseWeights::Open(Path("s"), "bert.");
  ASSERT_TRUE(weights.ok()) << weights.status();
  ASSERT_TRUE((*weights)->Take("bert.a", {1}).ok());
  const absl::Status refused = (*weights)->CheckAllTaken({"cls.", "bert.cls."});
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("tensor bert.left [1] is no part of the model"));
  ASSERT_TRUE((*weights)->Take("bert.left", {1}).ok());
  EXPECT_TRUE((*weights)->CheckAllTaken({"cls.", "bert.cls."}).ok());
}

// Pages come back from the file.
TEST(BaseWeightsTest, DropPages_LosesNothing) {
  ASSERT_TRUE(MakeDirectories(Path("d")).ok());
  const std::vector<float> values(100'000, 2.5f);
  ASSERT_TRUE(WriteSafetensors(Path("d/model.safetensors"), {TestTensor("x", "F32", {100'000}, values)}).ok());
  const auto weights = BaseWeights::Open(Path("d"), "");
  ASSERT_TRUE(weights.ok()) << weights.status();
  const at::Tensor x = *(*weights)->Get("x", {100'000});
  (*weights)->DropPages();
  EXPECT_EQ(x.sum().item<float>(), 250'000);
}

}  // namespace
}  // namespace weft
