#include "adapters/forms/ssf/ssf.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "adapters/base.h"

namespace weft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

google::protobuf::Struct Config(const Json& json) {
  google::protobuf::Struct config;
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json.dump(), &config).ok());
  return config;
}

std::unique_ptr<Form> MakeSsf(const Json& targets = Json::array()) {
  auto form = CreateSsf(Config({{"target_modules", targets}}));
  EXPECT_TRUE(form.ok()) << form.status();
  return *std::move(form);
}

BaseDescription Vit(int hidden, int layers, int intermediate, int image, int patch) {
  const Json config = {{"model_type", "vit"},
                       {"hidden_size", hidden},
                       {"num_hidden_layers", layers},
                       {"num_attention_heads", hidden / 4},
                       {"intermediate_size", intermediate},
                       {"image_size", image},
                       {"patch_size", patch}};
  const auto base = DescribeBase(config.dump());
  EXPECT_TRUE(base.ok()) << base.status();
  return *base;
}

BaseDescription SmallBert() {
  const auto base = DescribeBase(
      R"({"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
          "vocab_size": 64, "max_position_embeddings": 32, "type_vocab_size": 2})");
  EXPECT_TRUE(base.ok()) << base.status();
  return *base;
}

int64_t Elements(const std::vector<TensorSpec>& tensors) {
  int64_t sum = 0;
  for (const TensorSpec& spec : tensors) sum += spec.shape[0];
  return sum;
}

// The paper's 0.205 M: 22 d per layer and 4 d, with intermediate = 4 d.
TEST(SsfTest, Tensors_AsManyAsThePaperHas) {
  const auto tensors = MakeSsf()->Tensors(Vit(768, 12, 3072, 224, 16));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ(Elements(*tensors), 205'824);
  EXPECT_EQ(Elements(*MakeSsf()->Tensors(Vit(8, 3, 32, 8, 4))), 22 * 8 * 3 + 4 * 8);
}

TEST(SsfTest, Tensors_PatchesThenLinearsThenNorms) {
  const auto tensors = MakeSsf()->Tensors(Vit(8, 1, 32, 8, 4));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ(tensors->at(0).name, "vit.embeddings.patch_embeddings.projection.ssf_scale");
  EXPECT_EQ(tensors->at(0).role, "ssf_scale");
  EXPECT_EQ(tensors->at(1).name, "vit.embeddings.patch_embeddings.projection.ssf_shift");
  EXPECT_EQ(tensors->at(1).role, "ssf_shift");
  EXPECT_EQ(tensors->at(2).name, "vit.layers.0.attention.q_proj.ssf_scale");
  EXPECT_THAT(tensors->at(10).shape, ElementsAre(32)) << "width of the output: " << tensors->at(10).name;
  EXPECT_EQ(tensors->back().name, "vit.layernorm.ssf_shift");
}

TEST(SsfTest, Tensors_Targets) {
  const auto tensors = MakeSsf({"LayerNorm", "query"})->Tensors(SmallBert());
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ(tensors->size(), 2u * (2 + 1 + 4));  // queries, the embeddings' norm, two norms a layer
  const absl::Status status = MakeSsf({"query", "lm_head"})->Tensors(SmallBert()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"lm_head\" matches no linear module or norm of the base"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("output.LayerNorm"));
}

TEST(SsfTest, Create_RefusesAnUnknownKey) {
  EXPECT_EQ(CreateSsf(Config({{"rank", 2}})).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SsfTest, Initialise_NormalAroundOneAndZero) {
  Adapter adapter(*Layout::Create(
      {{"m.ssf_scale", "ssf_scale", {20000}}, {"m.ssf_shift", "ssf_shift", {20000}}, {"h.bias", "head", {1}}}));
  adapter.values()[40000] = 5;
  MakeSsf()->Initialise(SmallBert(), 3, &adapter);
  EXPECT_EQ(adapter.values()[40000], 5) << "another owner's";
  for (int i = 0; i < 2; ++i) {
    const auto values = adapter.tensor(adapter.layout().tensors()[i]);
    const auto n = static_cast<double>(values.size());
    double sum = 0, squares = 0;
    for (const float value : values) sum += value;
    const double mean = sum / n;
    for (const float value : values) squares += (value - mean) * (value - mean);
    EXPECT_NEAR(mean, i == 0 ? 1 : 0, 5 * 0.02 / std::sqrt(n));  // five standard errors each
    EXPECT_NEAR(squares / n / (0.02 * 0.02), 1, 5 * std::sqrt(2 / n));
  }
  Adapter again(adapter.layout_ptr()), other(adapter.layout_ptr());
  again.values()[40000] = 5;
  MakeSsf()->Initialise(SmallBert(), 3, &again);
  MakeSsf()->Initialise(SmallBert(), 4, &other);
  EXPECT_EQ(again.ContentHash(), adapter.ContentHash());
  EXPECT_NE(other.values()[0], adapter.values()[0]);
}

TEST(SsfTest, PeftConfig_ReadsBack) {
  const BaseDescription base = SmallBert();
  TaskDescription task = base.tasks.at("sequence_classification");
  Json peft = *MakeSsf()->PeftConfig(base, task);
  EXPECT_EQ(peft["peft_type"], "WEFT_SSF");
  EXPECT_EQ(SsfFromPeft(peft)->DebugString(), Config(Json::object()).DebugString());
  task.prefixed = false;
  peft = *MakeSsf({"bert.encoder.layer.0.output.LayerNorm", "query"})->PeftConfig(base, task);
  EXPECT_EQ(peft["target_modules"], Json({"encoder.layer.0.output.LayerNorm", "query"}));
  EXPECT_EQ(SsfFromPeft(peft)->DebugString(),
            Config({{"target_modules", {"encoder.layer.0.output.LayerNorm", "query"}}}).DebugString());
  peft["power"] = 2;
  EXPECT_THAT(std::string(SsfFromPeft(peft).status().message()), HasSubstr("\"power\" is 2"));
  EXPECT_THAT(std::string(SsfFromPeft({{"target_modules", "query"}}).status().message()), HasSubstr("target_modules"));
}

TEST(SsfTest, Merge_ScalesRowsAndShiftsTheBias) {
  Adapter adapter(*Layout::Create({{"m.ssf_scale", "ssf_scale", {2}}, {"m.ssf_shift", "ssf_shift", {2}}}));
  const float values[] = {2, 3, /*shift*/ 10, 20};
  std::copy(std::begin(values), std::end(values), adapter.values().begin());
  const MergedModule module{.name = "m", .rows = 2, .columns = 2};
  std::vector<float> weight = {1, 2, 3, 4}, bias = {5, 6};
  ASSERT_TRUE(MakeSsf()->Merge(adapter, module, weight, {}).ok());
  ASSERT_TRUE(MakeSsf()->Merge(adapter, module, {}, bias).ok());
  EXPECT_THAT(weight, ElementsAre(2, 4, 9, 12));
  EXPECT_THAT(bias, ElementsAre(20, 38));
  const absl::Status status = MakeSsf()->Merge(adapter, {.name = "n", .rows = 2}, weight, {});
  EXPECT_THAT(std::string(status.message()), HasSubstr("module n: found no scale and shift"));
}

TEST(SsfTest, Merge_RefusesAShiftWithoutABias) {
  Adapter adapter(*Layout::Create({{"m.ssf_scale", "ssf_scale", {2}}, {"m.ssf_shift", "ssf_shift", {2}}}));
  const MergedModule module{.name = "m", .rows = 2, .columns = 1, .bias = false};
  std::vector<float> weight = {1, 2};
  EXPECT_TRUE(MakeSsf()->Merge(adapter, module, weight, {}).ok()) << "a shift of zero";
  adapter.values()[3] = 0.5f;
  const absl::Status status = MakeSsf()->Merge(adapter, module, weight, {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("module m has no bias that could take up the adapter's shift"));
}

TEST(SsfTest, WithRank_IsRefused) {
  EXPECT_EQ(MakeSsf()->WithRank(SmallBert(), 4).status().code(), absl::StatusCode::kInvalidArgument);
  Adapter adapter(*Layout::Create({{"m.ssf_scale", "ssf_scale", {2}}}));
  EXPECT_EQ(MakeSsf()->Reinitialise(1, &adapter).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace weft
