#include "adapters/forms/lora_sb/lora_sb.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <cmath>

#include "adapters/base.h"

namespace weft {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

google::protobuf::Struct Config(const Json& json) {
  google::protobuf::Struct config;
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json.dump(), &config).ok());
  return config;
}

std::unique_ptr<Form> MakeLoraSb(const Json& targets, int rank = 2) {
  auto form = CreateLoraSb(Config({{"rank", rank}, {"target_modules", targets}}));
  EXPECT_TRUE(form.ok()) << form.status();
  return *std::move(form);
}

BaseDescription SmallBase() {
  const auto base = DescribeBase(
      R"({"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
          "vocab_size": 64, "max_position_embeddings": 32, "type_vocab_size": 2})");
  EXPECT_TRUE(base.ok()) << base.status();
  return *base;
}

TaskDescription Classification() { return SmallBase().tasks.at("sequence_classification"); }

TEST(LoraSbTest, Tensors_FixedFactorsAroundR) {
  const auto tensors = MakeLoraSb({"intermediate.dense"}, 3)->Tensors(SmallBase());
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 6u);
  EXPECT_EQ(tensors->at(0).name, "bert.encoder.layer.0.intermediate.dense.lora_sb_A.weight");
  EXPECT_EQ(tensors->at(0).role, "fixed.lora_a");
  EXPECT_THAT(tensors->at(0).shape, ElementsAre(3, 8));
  EXPECT_EQ(tensors->at(1).name, "bert.encoder.layer.0.intermediate.dense.lora_sb_R.weight");
  EXPECT_EQ(tensors->at(1).role, "lora_r");
  EXPECT_THAT(tensors->at(1).shape, ElementsAre(3, 3));
  EXPECT_EQ(tensors->at(2).role, "fixed.lora_b");
  EXPECT_THAT(tensors->at(2).shape, ElementsAre(16, 3));
  EXPECT_TRUE(tensors->at(2).role.starts_with(kFixedPrefix));
}

TEST(LoraSbTest, Tensors_RefusesUnknownTargetsAndTooHighARank) {
  const absl::Status unknown = MakeLoraSb({"c_attn"})->Tensors(SmallBase()).status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(unknown.message(), HasSubstr("\"c_attn\" matches no linear module"));
  EXPECT_TRUE(MakeLoraSb({"intermediate.dense"}, 8)->Tensors(SmallBase()).ok());
  const absl::Status high = MakeLoraSb({"intermediate.dense"}, 9)->Tensors(SmallBase()).status();
  EXPECT_EQ(high.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(high.message(), HasSubstr("found 9, but module bert.encoder.layer.0.intermediate.dense has 8 inputs"));
}

TEST(LoraSbTest, Create_RefusesABadConfig) {
  for (const Json& config :
       {Json{{"rank", 0}, {"target_modules", {"query"}}}, Json{{"rank", 1025}, {"target_modules", {"query"}}},
        Json{{"scale", 0}, {"target_modules", {"query"}}}, Json{{"dropout", 1}, {"target_modules", {"query"}}},
        Json{{"alpha", 2}, {"target_modules", {"query"}}}, Json{{"rank", 2}}}) {
    EXPECT_EQ(CreateLoraSb(Config(config)).status().code(), absl::StatusCode::kInvalidArgument) << config;
  }
}

// Largest |<v_i, v_j> - (i == j)| over vectors of `stride` between elements and `next` between vectors.
double Skew(std::span<const float> values, int64_t count, int64_t size, int64_t stride, int64_t next) {
  double largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < count; ++j) {
      double product = i == j ? -1 : 0;
      for (int64_t k = 0; k < size; ++k) {
        product += static_cast<double>(values[(i * next) + (k * stride)]) * values[(j * next) + (k * stride)];
      }
      largest = std::max(largest, std::abs(product));
    }
  }
  return largest;
}

TEST(LoraSbTest, Initialise_OrthonormalFactorsAndZeroR) {
  for (const int64_t rank : {1, 5, 20}) {  // the last takes up all of A's space
    Adapter adapter(*Layout::Create({{"m.lora_sb_A.weight", "fixed.lora_a", {rank, 20}},
                                     {"m.lora_sb_R.weight", "lora_r", {rank, rank}},
                                     {"m.lora_sb_B.weight", "fixed.lora_b", {40, rank}}}));
    std::fill(adapter.values().begin(), adapter.values().end(), 9.0f);
    MakeLoraSb({"query"})->Initialise(SmallBase(), 5, &adapter);
    const auto& tensors = adapter.layout().tensors();
    EXPECT_THAT(adapter.tensor(tensors[1]), Each(0.0f));
    EXPECT_LT(Skew(adapter.tensor(tensors[0]), rank, 20, 1, 20), 1e-6);    // measured 4e-8
    EXPECT_LT(Skew(adapter.tensor(tensors[2]), rank, 40, rank, 1), 1e-6);  // measured 3e-8
    adapter.tensor(tensors[2])[0] += 0.01f;
    EXPECT_GT(Skew(adapter.tensor(tensors[2]), rank, 40, rank, 1), 1e-6);
  }
}

TEST(LoraSbTest, Initialise_DependsOnSeedAndNameAlone) {
  const auto first_of = [](const std::string& name, uint64_t seed, bool second) {
    std::vector<TensorSpec> tensors = {{name, "fixed.lora_a", {2, 4}}};
    if (second) tensors.insert(tensors.begin(), {"other", "fixed.lora_b", {5, 3}});
    Adapter adapter(*Layout::Create(tensors));
    MakeLoraSb({"query"})->Initialise(SmallBase(), seed, &adapter);
    return adapter.tensor(*adapter.layout().Find(name))[0];
  };
  EXPECT_EQ(first_of("a", 1, false), first_of("a", 1, true));
  EXPECT_NE(first_of("a", 1, false), first_of("a", 2, false));
  EXPECT_NE(first_of("a", 1, false), first_of("b", 1, false));
}

TEST(LoraSbTest, Initialise_LeavesOtherRolesAlone) {
  Adapter adapter(*Layout::Create({{"classifier.weight", "head", {2, 4}}}));
  adapter.values()[0] = 3;
  MakeLoraSb({"query"})->Initialise(SmallBase(), 1, &adapter);
  EXPECT_EQ(adapter.values()[0], 3.0f);
}

TEST(LoraSbTest, PeftConfig_ReadsBack) {
  const Json json = {{"rank", 4}, {"scale", 1.5}, {"dropout", 0.25}, {"target_modules", {"query", "value"}}};
  const auto form = *CreateLoraSb(Config(json));
  EXPECT_EQ(form->Scale("m"), 1.5);
  const Json peft = *form->PeftConfig(SmallBase(), Classification());
  EXPECT_EQ(peft["peft_type"], "WEFT_LORA_SB");
  const auto back = LoraSbFromPeft(peft);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->DebugString(), Config(json).DebugString());
}

TEST(LoraSbTest, ForPeft_IsPlainLoraOfAAndScaledBR) {
  const auto form = *CreateLoraSb(Config({{"rank", 2}, {"scale", 3}, {"target_modules", {"query"}}}));
  Adapter adapter(*Layout::Create({{"m.query.lora_sb_A.weight", "fixed.lora_a", {2, 3}},
                                   {"m.query.lora_sb_R.weight", "lora_r", {2, 2}},
                                   {"m.query.lora_sb_B.weight", "fixed.lora_b", {1, 2}},
                                   {"head.bias", "head", {1}}}));
  const float values[] = {1, 2, 3, 4, 5, 6, /*R*/ 1, 2, 3, 4, /*B*/ 5, 7, /*head*/ 9};
  std::copy(std::begin(values), std::end(values), adapter.values().begin());
  const auto plain = form->ForPeft(adapter);
  ASSERT_TRUE(plain.ok() && plain->has_value()) << plain.status();
  const Adapter& lora = (*plain)->adapter;
  EXPECT_EQ(lora.layout(), **Layout::Create({{"m.query.lora_A.weight", "lora_a", {2, 3}},
                                             {"m.query.lora_B.weight", "lora_b", {1, 2}},
                                             {"head.bias", "head", {1}}}));
  // 3 * [5 7] [1 2; 3 4] = [78 114].
  EXPECT_THAT(lora.values(), ElementsAre(1, 2, 3, 4, 5, 6, 78, 114, 9));
  EXPECT_EQ((*plain)->config.form(), "lora");
  const auto& fields = (*plain)->config.config().fields();
  EXPECT_EQ(fields.at("rank").number_value(), fields.at("alpha").number_value());
}

TEST(LoraSbTest, FromPeft_RefusesWhatIsMissing) {
  const Json peft = *MakeLoraSb({"query"})->PeftConfig(SmallBase(), Classification());
  for (const char* key : {"r", "scale", "dropout", "target_modules"}) {
    for (const Json& value : {Json(), Json("x"), Json{1}}) {
      Json bad = peft;
      bad[key] = value;
      const absl::Status status = LoraSbFromPeft(bad).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key << value;
      EXPECT_THAT(status.message(), HasSubstr("\"" + std::string(key) + "\" is " + value.dump()));
    }
  }
}

}  // namespace
}  // namespace weft
