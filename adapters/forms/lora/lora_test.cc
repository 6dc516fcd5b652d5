#include "adapters/forms/lora/lora.h"

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

std::unique_ptr<Form> MakeLora(const Json& targets, int rank = 2) {
  auto form = CreateLora(Config({{"rank", rank}, {"target_modules", targets}}));
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

std::vector<std::string> NamesFor(const Json& targets) {
  const auto tensors = MakeLora(targets)->Tensors(SmallBase());
  EXPECT_TRUE(tensors.ok()) << tensors.status();
  std::vector<std::string> names;
  for (const TensorSpec& spec : *tensors) names.push_back(spec.name);
  return names;
}

TEST(LoraTest, Tensors_AThenBInModuleOrder) {
  // In the order of the base's modules, whatever the order of targets.
  const auto tensors = MakeLora({"value", "intermediate.dense"}, 3)->Tensors(SmallBase());
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 8u);
  const TensorSpec& a = tensors->at(2);
  EXPECT_EQ(a.name, "bert.encoder.layer.0.intermediate.dense.lora_A.weight");
  EXPECT_EQ(a.role, "lora_a");
  EXPECT_THAT(a.shape, ElementsAre(3, 8));
  const TensorSpec& b = tensors->at(3);
  EXPECT_EQ(b.name, "bert.encoder.layer.0.intermediate.dense.lora_B.weight");
  EXPECT_EQ(b.role, "lora_b");
  EXPECT_THAT(b.shape, ElementsAre(16, 3));
  EXPECT_EQ(tensors->at(0).name, "bert.encoder.layer.0.attention.self.value.lora_A.weight");
  EXPECT_EQ(tensors->at(4).name, "bert.encoder.layer.1.attention.self.value.lora_A.weight");
}

TEST(LoraTest, Tensors_TargetsMatchAsInPeft) {
  EXPECT_EQ(NamesFor({"query"}).size(), 4u);
  EXPECT_EQ(NamesFor({"self.query"}).size(), 4u);
  EXPECT_THAT(NamesFor({"bert.encoder.layer.1.attention.self.query"}),
              ElementsAre("bert.encoder.layer.1.attention.self.query.lora_A.weight",
                          "bert.encoder.layer.1.attention.self.query.lora_B.weight"));
  EXPECT_EQ(NamesFor({"dense"}).size(), 2u * (3 * 2 + 1));  // with the pooler
  EXPECT_EQ(NamesFor({"output.dense"}).size(), 2u * 4);     // of attention and of the layer
  EXPECT_EQ(NamesFor({"query", "self.query"}).size(), 4u);  // matched twice, there once
}

TEST(LoraTest, Tensors_RefusesATargetThatMatchesNothing) {
  // Not a whole part of a path; one of two; the head.
  for (const Json& targets : {Json{"uery"}, Json{"query", "c_attn"}, Json{"classifier"}}) {
    const absl::Status status = MakeLora(targets)->Tensors(SmallBase()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("\"" + targets.back().get<std::string>() + "\" matches no"));
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("there are: attention.self.query, attention.self.key, attention.self.value, "
                          "attention.output.dense, intermediate.dense, output.dense, bert.pooler.dense"));
  }
}

TEST(LoraTest, Tensors_AllLinear) {
  EXPECT_EQ(NamesFor({"all-linear"}).size(), 2u * SmallBase().linears.size());
  const absl::Status status = MakeLora({"all-linear", "query"})->Tensors(SmallBase()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("all-linear among others; use it alone"));
}

TEST(LoraTest, Tensors_RanksByPattern) {
  const auto form = *CreateLora(Config({{"rank", 2},
                                        {"alpha", 12},
                                        {"target_modules", {"query", "value"}},
                                        {"rank_pattern", {{"layer.1.attention.self.query", 3}}},
                                        {"alpha_pattern", {{"value", 4}}}}));
  const auto tensors = form->Tensors(SmallBase());
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_THAT(tensors->at(0).shape, ElementsAre(2, 8));
  EXPECT_THAT(tensors->at(4).shape, ElementsAre(3, 8));
  EXPECT_THAT(tensors->at(5).shape, ElementsAre(8, 3));
  EXPECT_EQ(form->Scale("bert.encoder.layer.0.attention.self.query"), 12 / 2);
  EXPECT_EQ(form->Scale("bert.encoder.layer.1.attention.self.query"), 12 / 3);
  EXPECT_EQ(form->Scale("bert.encoder.layer.1.attention.self.value"), 4 / 2);
}

TEST(LoraTest, Tensors_RefusesAPatternOfNoTarget) {
  for (const char* name : {"rank_pattern", "alpha_pattern"}) {
    const auto form = *CreateLora(Config({{"target_modules", {"query"}}, {name, {{"value", 4}}}}));
    const absl::Status status = form->Tensors(SmallBase()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(name) + ": \"value\" matches none of the 2"));
  }
}

TEST(LoraTest, Scale_OfRsLoraIsOverTheRootOfTheRank) {
  const auto form =
      *CreateLora(Config({{"rank", 16}, {"alpha", 8}, {"use_rslora", true}, {"target_modules", {"query"}}}));
  EXPECT_EQ(form->Scale("m"), 8 / 4);
}

TEST(LoraTest, WithRank_KeepsEachModulesScale) {
  for (const bool rslora : {false, true}) {
    const auto form = *CreateLora(Config({{"rank", 2},
                                          {"alpha", 12},
                                          {"use_rslora", rslora},
                                          {"dropout", 0.5},
                                          {"target_modules", {"query", "value"}},
                                          {"rank_pattern", {{"value", 3}}}}));
    const auto config = form->WithRank(SmallBase(), 7);
    ASSERT_TRUE(config.ok()) << config.status();
    const auto wide = *CreateLora(*config);
    EXPECT_EQ(config->fields().at("dropout").number_value(), 0.5);
    const auto tensors = *wide->Tensors(SmallBase());
    ASSERT_EQ(tensors.size(), 8u);
    for (size_t i = 0; i < tensors.size(); i += 2) {
      EXPECT_EQ(tensors[i].shape[0], 7);
      const std::string module = tensors[i].name.substr(0, tensors[i].name.rfind(".lora_A"));
      EXPECT_NEAR(wide->Scale(module), form->Scale(module), 1e-15 * form->Scale(module)) << module;
    }
  }
}

TEST(LoraTest, Merge_AddsTheScaledProduct) {
  const auto form = *CreateLora(Config({{"rank", 2}, {"alpha", 6}, {"target_modules", {"query"}}}));
  Adapter adapter(*Layout::Create({{"m.lora_A.weight", "lora_a", {2, 3}}, {"m.lora_B.weight", "lora_b", {1, 2}}}));
  const float values[] = {1, 2, 3, 4, 5, 6, /*B*/ 10, 100};
  std::copy(std::begin(values), std::end(values), adapter.values().begin());
  std::vector<float> weight = {1, 1, 1}, bias = {5};
  ASSERT_TRUE(form->Merge(adapter, {.name = "m", .rows = 1, .columns = 3}, weight, {}).ok());
  EXPECT_THAT(weight, ElementsAre(1 + 3 * 410, 1 + 3 * 520, 1 + 3 * 630));
  ASSERT_TRUE(form->Merge(adapter, {.name = "m", .rows = 1, .columns = 3}, {}, bias).ok());
  EXPECT_THAT(bias, ElementsAre(5));
  for (const MergedModule& other : {MergedModule{"n", 1, 3}, MergedModule{"m", 1, 2}, MergedModule{"m", 2, 3}}) {
    EXPECT_THAT(std::string(form->Merge(adapter, other, weight, {}).message()), HasSubstr("no pair of LoRA factors"));
  }
}

TEST(LoraTest, Create_RefusesABadConfig) {
  for (const Json& config :
       {Json{{"rank_pattern", {{"(", 2}}}, {"target_modules", {"query"}}},
        Json{{"rank_pattern", {{"query", 0}}}, {"target_modules", {"query"}}},
        Json{{"alpha_pattern", {{"query", 0}}}, {"target_modules", {"query"}}},
        Json{{"rank", 0}, {"target_modules", {"query"}}}, Json{{"rank", 5000}, {"target_modules", {"query"}}},
        Json{{"ranc", 2}, {"target_modules", {"query"}}}, Json{{"dropout", 1}, {"target_modules", {"query"}}},
        Json{{"alpha", 0}, {"target_modules", {"query"}}}, Json{{"rank", 2}}}) {
    EXPECT_EQ(CreateLora(Config(config)).status().code(), absl::StatusCode::kInvalidArgument) << config;
  }
}

TEST(LoraTest, Initialise_UniformAAndZeroB) {
  const int64_t in = 1024;
  Adapter adapter(*Layout::Create({{"m.lora_A.weight", "lora_a", {64, in}}, {"m.lora_B.weight", "lora_b", {8, 64}}}));
  std::fill(adapter.values().begin(), adapter.values().end(), 9.0f);
  MakeLora({"query"})->Initialise(SmallBase(), 5, &adapter);
  EXPECT_THAT(adapter.tensor(adapter.layout().tensors()[1]), Each(0.0f));
  const double bound = 1 / std::sqrt(static_cast<double>(in));
  double sum = 0, squares = 0, largest = 0;
  const auto a = adapter.tensor(adapter.layout().tensors()[0]);
  for (const float value : a) {
    sum += value;
    squares += value * value;
    largest = std::max<double>(largest, std::abs(value));
  }
  const auto n = static_cast<double>(a.size());
  EXPECT_LE(largest, bound);
  EXPECT_GT(largest, 0.999 * bound);
  EXPECT_NEAR(sum / n, 0, 5 * bound / std::sqrt(3 * n));                      // five standard errors
  EXPECT_NEAR(squares / n / (bound * bound / 3), 1, 5 * 0.9 / std::sqrt(n));  // variance of a uniform: bound^2 / 3
}

TEST(LoraTest, Initialise_DependsOnSeedAndNameAlone) {
  const auto first_of = [](const std::string& name, uint64_t seed, bool second) {
    std::vector<TensorSpec> tensors = {{name, "lora_a", {2, 4}}};
    if (second) tensors.insert(tensors.begin(), {"other", "lora_a", {3, 5}});
    Adapter adapter(*Layout::Create(tensors));
    MakeLora({"query"})->Initialise(SmallBase(), seed, &adapter);
    return adapter.tensor(*adapter.layout().Find(name))[0];
  };
  EXPECT_EQ(first_of("a", 1, false), first_of("a", 1, true));
  EXPECT_NE(first_of("a", 1, false), first_of("a", 2, false));
  EXPECT_NE(first_of("a", 1, false), first_of("b", 1, false));
}

TEST(LoraTest, Initialise_LeavesOtherRolesAlone) {
  Adapter adapter(*Layout::Create({{"classifier.weight", "head", {2, 4}}}));
  adapter.values()[0] = 3;
  MakeLora({"query"})->Initialise(SmallBase(), 1, &adapter);
  EXPECT_EQ(adapter.values()[0], 3.0f);
}

// A base whose checkpoints hold linears the other way round, and whose bare model is a task's model.
TEST(LoraTest, PeftConfig_OfThisBaseAndTask) {
  BaseDescription base = SmallBase();
  TaskDescription task = Classification();
  const auto form = *CreateLora(Config({{"target_modules", {"all-linear"}},
                                        {"rank_pattern", {{"bert\\.encoder\\.layer\\.0\\..*query", 2}}},
                                        {"alpha_pattern", {{"value", 4}}}}));
  Json peft = *form->PeftConfig(base, task);
  EXPECT_EQ(peft["target_modules"], Json({"query", "key", "value", "dense"})) << "PEFT's all-linear may take the head";
  EXPECT_EQ(peft["fan_in_fan_out"], false);
  EXPECT_EQ(peft["rank_pattern"], Json({{"bert\\.encoder\\.layer\\.0\\..*query", 2}}));
  task.prefixed = false;
  for (LinearModule& module : base.linears) module.stored_transposed = true;
  peft = *form->PeftConfig(base, task);
  EXPECT_EQ(peft["fan_in_fan_out"], true);
  EXPECT_EQ(peft["rank_pattern"], Json({{"encoder\\.layer\\.0\\.attention\\.self\\.query", 2}}));
  EXPECT_EQ(peft["alpha_pattern"], Json({{"value", 4}})) << "which says the same of the shorter names";
  const auto full = *CreateLora(Config({{"target_modules", {"bert.encoder.layer.1.attention.self.key"}}}));
  EXPECT_EQ((*full->PeftConfig(base, task))["target_modules"], Json({"encoder.layer.1.attention.self.key"}));
}

TEST(LoraTest, PeftConfig_ReadsBack) {
  const Json json = {{"rank", 4}, {"alpha", 12}, {"dropout", 0.25}, {"target_modules", {"query", "value"}}};
  const Json peft = *(*CreateLora(Config(json)))->PeftConfig(SmallBase(), Classification());
  EXPECT_EQ(peft["peft_type"], "LORA");
  EXPECT_EQ(peft["r"], 4);
  EXPECT_EQ(peft["lora_alpha"].dump(), "12");
  EXPECT_EQ(peft["lora_dropout"], 0.25);
  EXPECT_EQ(peft["target_modules"], Json({"query", "value"}));
  const auto back = LoraFromPeft(peft);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->DebugString(), Config(json).DebugString());  // which sorts the map
}

// As peft 0.17 to 0.21 write it, with every field at its default.
Json PeftsOwn() {
  return Json::parse(
      R"({"alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
    "base_model_name_or_path": "b", "bias": "none", "corda_config": null, "ensure_weight_tying": false, "eva_config": null,
    "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "kasa_config": null,
    "layer_replication": null, "layers_pattern": null, "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 16,
    "lora_bias": false, "lora_dropout": 0.0, "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core",
    "modules_to_save": ["classifier", "score"], "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2",
    "qalora_group_size": 16, "r": 8, "rank_pattern": {}, "revision": null, "target_modules": ["value", "query"],
    "target_parameters": null, "task_type": "SEQ_CLS", "trainable_token_indices": null, "use_bdlora": null, "use_dora": false,
    "use_qalora": false, "use_rslora": false, "velora_config": null})");
}

TEST(LoraTest, FromPeft_PeftsOwnConfig) {
  const auto config = LoraFromPeft(PeftsOwn());
  ASSERT_TRUE(config.ok()) << config.status();
  const Json expected = {{"rank", 8}, {"alpha", 16}, {"dropout", 0}, {"target_modules", {"query", "value"}}};
  EXPECT_EQ(config->DebugString(), Config(expected).DebugString());
  for (const Json& init : {Json(false), Json("gaussian"), Json("orthogonal"), Json("eva")}) {
    Json peft = PeftsOwn();
    peft["init_lora_weights"] = init;
    if (init == "eva") peft["eva_config"] = {{"rho", 2.0}};
    EXPECT_TRUE(LoraFromPeft(peft).ok()) << init;
  }
}

TEST(LoraTest, FromPeft_PatternsAndScaling) {
  Json peft = PeftsOwn();
  peft["use_rslora"] = true;
  peft["fan_in_fan_out"] = true;  // the base says so itself
  peft["rank_pattern"] = {{"query", 4}};
  peft["alpha_pattern"] = {{"layer.1.*", 2.5}};
  peft["target_modules"] = "all-linear";
  const auto config = LoraFromPeft(peft);
  ASSERT_TRUE(config.ok()) << config.status();
  const Json expected = {{"rank", 8},
                         {"alpha", 16},
                         {"dropout", 0},
                         {"use_rslora", true},
                         {"rank_pattern", {{"query", 4}}},
                         {"alpha_pattern", {{"layer.1.*", 2.5}}},
                         {"target_modules", {"all-linear"}}};
  EXPECT_EQ(config->DebugString(), Config(expected).DebugString());
}

TEST(LoraTest, FromPeft_RefusesWhatHasNoEqualHere) {
  const std::pair<const char*, Json> cases[] = {{"use_dora", true},
                                                {"bias", "lora_only"},
                                                {"bias", "all"},
                                                {"lora_bias", true},
                                                {"rank_pattern", {{"query", "4"}}},
                                                {"rank_pattern", {4}},
                                                {"alpha_pattern", 4},
                                                {"layers_to_transform", {0, 1}},
                                                {"layer_replication", {{0, 1}}},
                                                {"exclude_modules", {"query"}},
                                                {"use_of_a_later_version", true},
                                                {"init_lora_weights", "pissa"},
                                                {"init_lora_weights", "pissa_niter_4"},
                                                {"init_lora_weights", "olora"},
                                                {"init_lora_weights", "corda"},
                                                {"init_lora_weights", "loftq"},
                                                {"init_lora_weights", "lora_ga"},
                                                {"init_lora_weights", "mica"},
                                                {"target_modules", ".*query"},
                                                {"target_modules", {1}},
                                                {"target_modules", nullptr},
                                                {"r", "8"},
                                                {"lora_alpha", nullptr}};
  for (const auto& [key, value] : cases) {
    Json peft = PeftsOwn();
    peft[key] = value;
    const absl::Status status = LoraFromPeft(peft).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key << " " << value;
    EXPECT_THAT(std::string(status.message()), HasSubstr("\"" + std::string(key) + "\" is " + value.dump()));
  }
}

}  // namespace
}  // namespace weft
