#include "adapters/merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "adapters/forms/form.h"
#include "adapters/peft_folder.h"
#include "adapters/safetensors.h"
#include "common/file.h"
#include "common/half.h"
#include "common/random.h"
#include "nlohmann/json.hpp"

namespace weft {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kQuery[] = "bert.encoder.layer.0.attention.self.query";
constexpr char kNorm[] = "bert.embeddings.LayerNorm";

const Json kBert = {{"model_type", "bert"},     {"architectures", {"BertForMaskedLM"}},
                    {"hidden_size", 4},         {"num_hidden_layers", 1},
                    {"num_attention_heads", 2}, {"intermediate_size", 8},
                    {"vocab_size", 16},         {"max_position_embeddings", 8},
                    {"type_vocab_size", 2},     {"num_labels", 2}};

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  std::string dtype = "F32";
};

// Random values of these tensors, and what a merged folder holds.
class MergeTest : public testing::Test {
 protected:
  MergeTest() : root_(absl::StrCat(testing::TempDir(), "/merge")) {
    std::filesystem::remove_all(root_);
    EXPECT_TRUE(MakeDirectories(Path("base")).ok());
    adapter_config_.set_form("lora");
    adapter_config_.set_head(true);
    task_.set_type("sequence_classification");
    task_.add_labels("no");
    task_.add_labels("yes");
    task_.add_labels("maybe");
  }

  std::string Path(const std::string& name) const { return absl::StrCat(root_, "/", name); }

  void WriteConfig(const Json& config) {
    EXPECT_TRUE(WriteFileAtomically(Path("base/config.json"), config.dump()).ok());
    base_ = *DescribeBase(config.dump());
  }

  void WriteWeights(const std::vector<Tensor>& tensors, const std::string& file = "model.safetensors") {
    std::vector<std::string> bytes(tensors.size());
    std::vector<SafetensorToWrite> out;
    for (size_t i = 0; i < tensors.size(); ++i) {
      int64_t size = 1;
      for (const int64_t d : tensors[i].shape) size *= d;
      Philox random(11, StreamId(tensors[i].name));
      std::vector<float>& values = original_[tensors[i].name];
      values.resize(size);
      for (float& value : values) {
        value = static_cast<float>(random.NextNormal());
        const uint16_t half = tensors[i].dtype == "F16" ? ToF16(value) : ToBf16(value);
        if (tensors[i].dtype == "F32") {
          bytes[i].append(reinterpret_cast<const char*>(&value), 4);
        } else {
          value = tensors[i].dtype == "F16" ? FromF16(half) : FromBf16(half);
          bytes[i].append(reinterpret_cast<const char*>(&half), 2);
        }
      }
      out.push_back({tensors[i].name, tensors[i].dtype, tensors[i].shape,
                     std::as_bytes(std::span(bytes[i].data(), bytes[i].size()))});
    }
    ASSERT_TRUE(WriteSafetensors(Path("base/" + file), out, {{"format", "pt"}}).ok());
  }

  // A bert whose weights are those that the tests look at.
  void WriteBert(const std::string& dtype = "F32", const std::string& prefix = "bert.") {
    WriteConfig(kBert);
    const std::string layer = prefix + "encoder.layer.0.attention.self.";
    WriteWeights({{prefix + "embeddings.LayerNorm.gamma", {4}, dtype},
                  {prefix + "embeddings.LayerNorm.beta", {4}, dtype},
                  {layer + "query.weight", {4, 4}, dtype},
                  {layer + "query.bias", {4}, dtype},
                  {layer + "key.weight", {4, 4}, dtype},
                  {"classifier.weight", {2, 4}, dtype}});
  }

  void Configure(const Json& config) {
    auto& fields = *adapter_config_.mutable_config()->mutable_fields();
    fields.clear();
    for (const auto& [key, value] : config.items()) {
      if (value.is_number()) fields[key].set_number_value(value.get<double>());
      if (!value.is_array()) continue;
      for (const Json& one : value) {
        fields[key].mutable_list_value()->add_values()->set_string_value(one.get<std::string>());
      }
    }
  }

  // Random values in every tensor, and the folder.
  Adapter WriteAdapter(double magnitude = 1) {
    Adapter adapter(*MakeLayout(adapter_config_, task_, base_));
    Philox random(5, 0);
    for (float& value : adapter.values()) value = static_cast<float>(random.NextNormal() * magnitude);
    WriteAdapter(adapter);
    return adapter;
  }
  void WriteAdapter(const Adapter& adapter) {
    const absl::Status status = WritePeftFolder(Path("adapter"), adapter,
                                                {.adapter = adapter_config_,
                                                 .task = task_,
                                                 .base = base_,
                                                 .base_name = Path("base"),
                                                 .base_hash = *HashBase(Path("base"))});
    EXPECT_TRUE(status.ok()) << status;
  }

  absl::StatusOr<MergeResult> Merge() const {
    return MergeAdapter({.base = Path("base"), .adapter = Path("adapter"), .out = Path("out")});
  }
  void ExpectRefused(const std::string& why, absl::StatusCode code = absl::StatusCode::kInvalidArgument) const {
    const absl::Status status = Merge().status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  }

  std::vector<float> Merged(const std::string& name, const std::string& file = "model.safetensors") const {
    const auto opened = SafetensorsFile::Open(Path("out/" + file));
    EXPECT_TRUE(opened.ok()) << opened.status();
    const auto view = opened->Find(name);
    EXPECT_TRUE(view.ok()) << view.status();
    const size_t width = SafetensorsDtypeSize(view->dtype);
    std::vector<float> values(view->data.size() / width);
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t half;
      if (width == 4) {
        std::memcpy(&values[i], view->data.data() + 4 * i, 4);
      } else {
        std::memcpy(&half, view->data.data() + 2 * i, 2);
        values[i] = view->dtype == "F16" ? FromF16(half) : FromBf16(half);
      }
    }
    return values;
  }

  std::vector<std::string> NamesIn(const std::string& file) const {
    const auto opened = SafetensorsFile::Open(Path("out/" + file));
    EXPECT_TRUE(opened.ok()) << opened.status();
    std::vector<std::string> names;
    for (const auto& [name, view] : opened->tensors()) names.push_back(name);
    return names;
  }

  // W + scale B A in double, of an adapter's module; `w` [out, in].
  static std::vector<double> WithProduct(std::vector<float> w, const Adapter& adapter, const std::string& module,
                                         double scale) {
    const TensorSpec& a = *adapter.layout().Find(module + ".lora_A.weight");
    const TensorSpec& b = *adapter.layout().Find(module + ".lora_B.weight");
    const int64_t rank = a.shape[0], in = a.shape[1];
    std::vector<double> sum(w.begin(), w.end());
    for (int64_t o = 0; o < b.shape[0]; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        for (int64_t j = 0; j < rank; ++j) {
          sum[o * in + i] += scale * double{adapter.tensor(b)[o * rank + j]} * double{adapter.tensor(a)[j * in + i]};
        }
      }
    }
    return sum;
  }

  static double LargestDifference(const std::vector<float>& one, const std::vector<double>& other) {
    EXPECT_EQ(one.size(), other.size());
    double largest = 0;
    for (size_t i = 0; i < one.size(); ++i) largest = std::max(largest, std::abs(one[i] - other[i]));
    return largest;
  }

  const std::string root_;
  BaseDescription base_;
  proto::AdapterConfig adapter_config_;
  proto::TaskConfig task_;
  std::map<std::string, std::vector<float>> original_;  // as stored
};

TEST_F(MergeTest, Merge_LoraAndHead) {
  WriteBert();
  Configure({{"rank", 2}, {"alpha", 6}, {"target_modules", {"query"}}});
  const Adapter adapter = WriteAdapter();
  const auto result = Merge();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->task.labels_size(), 3);
  const auto expected = WithProduct(original_[absl::StrCat(kQuery, ".weight")], adapter, kQuery, 3);
  const std::vector<float> merged = Merged(absl::StrCat(kQuery, ".weight"));
  EXPECT_LT(LargestDifference(merged, expected), 4e-6);  // measured 5e-7, values up to 20
  EXPECT_GT(LargestDifference(original_[absl::StrCat(kQuery, ".weight")], expected), 0.1);
  for (const char* name : {"bert.encoder.layer.0.attention.self.query.bias", "bert.embeddings.LayerNorm.gamma",
                           "bert.encoder.layer.0.attention.self.key.weight"}) {
    EXPECT_EQ(Merged(name), original_[name]) << name;
  }
  const auto head = adapter.tensor(*adapter.layout().Find("classifier.weight"));
  EXPECT_EQ(Merged("classifier.weight"), std::vector<float>(head.begin(), head.end())) << "in place of the base's";
  EXPECT_EQ(Merged("classifier.bias").size(), 3u);
}

TEST_F(MergeTest, Merge_ConfigSaysWhatTheHeadIs) {
  WriteBert();
  Configure({{"rank", 2}, {"target_modules", {"query"}}});
  WriteAdapter();
  ASSERT_TRUE(Merge().ok());
  const Json config = Json::parse(*ReadFile(Path("out/config.json")));
  EXPECT_EQ(config["architectures"], Json({"BertForSequenceClassification"}));
  EXPECT_EQ(config["id2label"], Json({{"0", "no"}, {"1", "yes"}, {"2", "maybe"}}));
  EXPECT_EQ(config["label2id"], Json({{"no", 0}, {"yes", 1}, {"maybe", 2}}));
  EXPECT_FALSE(config.contains("num_labels"));
  EXPECT_EQ(config["hidden_size"], 4);
}

TEST_F(MergeTest, Merge_WithoutHeadTheConfigStays) {
  WriteBert();
  Configure({{"rank", 2}, {"target_modules", {"query"}}});
  adapter_config_.set_head(false);
  WriteAdapter();
  ASSERT_TRUE(Merge().ok());
  EXPECT_EQ(Json::parse(*ReadFile(Path("out/config.json"))), kBert);
  EXPECT_EQ(Merged("classifier.weight"), original_["classifier.weight"]);
}

// What readers take for a whole task model has the prefix throughout.
TEST_F(MergeTest, Merge_ABareCheckpointGetsThePrefixWithAHead) {
  WriteBert("F32", "");
  Configure({{"rank", 2}, {"alpha", 6}, {"target_modules", {"query"}}});
  const Adapter adapter = WriteAdapter();
  ASSERT_TRUE(Merge().ok()) << Merge().status();
  EXPECT_THAT(
      NamesIn("model.safetensors"),
      ElementsAre("bert.embeddings.LayerNorm.beta", "bert.embeddings.LayerNorm.gamma",
                  "bert.encoder.layer.0.attention.self.key.weight", "bert.encoder.layer.0.attention.self.query.bias",
                  "bert.encoder.layer.0.attention.self.query.weight", "classifier.bias", "classifier.weight"));
  const auto expected = WithProduct(original_["encoder.layer.0.attention.self.query.weight"], adapter, kQuery, 3);
  EXPECT_LT(LargestDifference(Merged(absl::StrCat(kQuery, ".weight")), expected), 4e-6);
}

TEST_F(MergeTest, Merge_ABareCheckpointStaysBareForTheBareModel) {
  WriteBert("F32", "");
  Configure({{"rank", 2}, {"target_modules", {"query"}}});
  task_.set_type("sentence_embedding");
  task_.clear_labels();
  WriteAdapter();
  ASSERT_TRUE(Merge().ok()) << Merge().status();
  EXPECT_NE(Merged("encoder.layer.0.attention.self.query.weight"),
            original_["encoder.layer.0.attention.self.query.weight"]);
}

TEST_F(MergeTest, Merge_RoundsOnceToTheBasesDtype) {
  for (const char* dtype : {"BF16", "F16"}) {
    std::filesystem::remove_all(Path("out"));
    WriteBert(dtype);
    Configure({{"rank", 2}, {"alpha", 6}, {"target_modules", {"query"}}});
    const Adapter adapter = WriteAdapter();
    ASSERT_TRUE(Merge().ok()) << Merge().status();
    const std::string name = absl::StrCat(kQuery, ".weight");
    std::vector<float> expected = original_[name];
    ASSERT_TRUE(
        (*CreateForm(adapter_config_))->Merge(adapter, {.name = kQuery, .rows = 4, .columns = 4}, expected, {}).ok());
    for (float& value : expected) value = dtype == std::string("F16") ? FromF16(ToF16(value)) : FromBf16(ToBf16(value));
    EXPECT_EQ(Merged(name), expected) << dtype;
    const auto head = adapter.tensor(*adapter.layout().Find("classifier.weight"));
    EXPECT_NEAR(Merged("classifier.weight")[0], head[0], 0.01 * std::abs(head[0])) << "the head too";
    EXPECT_NE(Merged("classifier.weight")[0], head[0]);
  }
}

// GPT-2 keeps [in, out].
TEST_F(MergeTest, Merge_IntoTransposedWeights) {
  WriteConfig(
      {{"model_type", "gpt2"}, {"n_embd", 4}, {"n_layer", 1}, {"n_head", 2}, {"vocab_size", 16}, {"n_positions", 8}});
  WriteWeights({{"h.0.attn.c_attn.weight", {4, 12}}, {"h.0.attn.c_attn.bias", {12}}});
  Configure({{"rank", 2}, {"alpha", 6}, {"target_modules", {"c_attn"}}});
  task_.set_type("causal_lm");
  task_.clear_labels();
  const Adapter adapter = WriteAdapter();
  ASSERT_TRUE(Merge().ok()) << Merge().status();
  const auto turned = [](const std::vector<float>& w) {
    std::vector<float> t(w.size());
    for (int i = 0; i < 4; ++i) {
      for (int o = 0; o < 12; ++o) t[o * 4 + i] = w[i * 12 + o];
    }
    return t;
  };
  const auto expected =
      WithProduct(turned(original_["h.0.attn.c_attn.weight"]), adapter, "transformer.h.0.attn.c_attn", 3);
  const std::vector<float> merged = Merged("h.0.attn.c_attn.weight");
  EXPECT_LT(LargestDifference(turned(merged), expected), 4e-6);
  EXPECT_GT(LargestDifference(merged, expected), 0.1) << "the other way round";
}

TEST_F(MergeTest, Merge_SsfOfLinearsAndNorms) {
  WriteBert();
  adapter_config_.set_form("ssf");
  Configure({{"target_modules", {"query", "embeddings.LayerNorm"}}});
  const Adapter adapter = WriteAdapter();
  ASSERT_TRUE(Merge().ok()) << Merge().status();
  const auto of = [&](const std::string& name) { return adapter.tensor(*adapter.layout().Find(name)); };
  const std::string query = kQuery, norm = kNorm;
  const std::vector<float> weight = Merged(query + ".weight"), bias = Merged(query + ".bias");
  const std::vector<float> gain = Merged(norm + ".gamma"), offset = Merged(norm + ".beta");
  for (int o = 0; o < 4; ++o) {
    const float scale = of(query + ".ssf_scale")[o], shift = of(query + ".ssf_shift")[o];
    for (int i = 0; i < 4; ++i) EXPECT_EQ(weight[o * 4 + i], scale * original_[query + ".weight"][o * 4 + i]);
    EXPECT_FLOAT_EQ(bias[o], scale * original_[query + ".bias"][o] + shift);
    EXPECT_FLOAT_EQ(gain[o], of(norm + ".ssf_scale")[o] * original_[norm + ".gamma"][o]);
    EXPECT_FLOAT_EQ(offset[o], of(norm + ".ssf_scale")[o] * original_[norm + ".beta"][o] + of(norm + ".ssf_shift")[o]);
  }
}

TEST_F(MergeTest, Merge_LoraSbAsThePlainLoraItIs) {
  WriteBert();
  adapter_config_.set_form("lora_sb");
  Configure({{"rank", 2}, {"scale", 3}, {"target_modules", {"query"}}});
  const Adapter adapter = WriteAdapter();
  ASSERT_TRUE(Merge().ok()) << Merge().status();
  const auto plain = (*CreateForm(adapter_config_))->ForPeft(adapter);
  const auto expected = WithProduct(original_[absl::StrCat(kQuery, ".weight")], (*plain)->adapter, kQuery, 1);
  EXPECT_LT(LargestDifference(Merged(absl::StrCat(kQuery, ".weight")), expected), 1e-5);
  // The form's own folder is the same adapter.
  const auto own = MergeAdapter({.base = Path("base"), .adapter = Path("adapter/lora_sb"), .out = Path("own")});
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(*ReadFile(Path("own/model.safetensors")), *ReadFile(Path("out/model.safetensors")));
}

TEST_F(MergeTest, Merge_SeveralFilesAndTheirIndex) {
  WriteConfig(kBert);
  WriteWeights({{absl::StrCat(kQuery, ".weight"), {4, 4}}, {"classifier.weight", {2, 4}}}, "model-00001.safetensors");
  WriteWeights({{absl::StrCat(kQuery, ".bias"), {4}}}, "model-00002.safetensors");
  ASSERT_TRUE(WriteFileAtomically(Path("base/model.safetensors.index.json"), std::string_view("{}")).ok());
  Configure({{"rank", 2}, {"alpha", 6}, {"target_modules", {"query"}}});
  const Adapter adapter = WriteAdapter();
  ASSERT_TRUE(Merge().ok()) << Merge().status();
  const auto expected = WithProduct(original_[absl::StrCat(kQuery, ".weight")], adapter, kQuery, 3);
  EXPECT_LT(LargestDifference(Merged(absl::StrCat(kQuery, ".weight"), "model-00001.safetensors"), expected), 4e-6);
  const Json index = Json::parse(*ReadFile(Path("out/model.safetensors.index.json")));
  EXPECT_EQ(index["weight_map"], Json({{absl::StrCat(kQuery, ".weight"), "model-00001.safetensors"},
                                       {absl::StrCat(kQuery, ".bias"), "model-00002.safetensors"},
                                       {"classifier.weight", "model-00001.safetensors"},
                                       {"classifier.bias", "model-00001.safetensors"}}));
  EXPECT_EQ(index["metadata"]["total_size"], 4 * (16 + 4 + 12 + 3));
}

TEST_F(MergeTest, Merge_CopiesOtherFilesButNoOtherWeights) {
  WriteBert();
  ASSERT_TRUE(MakeDirectories(Path("base/1_Pooling")).ok());
  ASSERT_TRUE(MakeDirectories(Path("base/.cache")).ok());
  for (const char* name : {"tokenizer.json", "1_Pooling/config.json", "pytorch_model.bin", ".cache/x"}) {
    ASSERT_TRUE(WriteFileAtomically(Path(absl::StrCat("base/", name)), std::string_view(name)).ok());
  }
  Configure({{"rank", 2}, {"target_modules", {"query"}}});
  WriteAdapter();
  ASSERT_TRUE(Merge().ok());
  EXPECT_EQ(*ReadFile(Path("out/tokenizer.json")), "tokenizer.json");
  EXPECT_EQ(*ReadFile(Path("out/1_Pooling/config.json")), "1_Pooling/config.json");
  EXPECT_FALSE(std::filesystem::exists(Path("out/pytorch_model.bin")));
  EXPECT_FALSE(std::filesystem::exists(Path("out/.cache")));
}

TEST_F(MergeTest, Merge_RefusesAShiftThatNoBiasTakesUp) {
  WriteConfig({{"model_type", "llama"},
               {"hidden_size", 4},
               {"num_hidden_layers", 1},
               {"num_attention_heads", 2},
               {"intermediate_size", 8},
               {"vocab_size", 16},
               {"max_position_embeddings", 8},
               {"rms_norm_eps", 1e-6}});
  WriteWeights({{"model.layers.0.self_attn.q_proj.weight", {4, 4}}, {"model.norm.weight", {4}}});
  adapter_config_.set_form("ssf");
  task_.set_type("causal_lm");
  task_.clear_labels();
  for (const char* target : {"q_proj", "model.norm"}) {
    std::filesystem::remove_all(Path("out"));
    Configure({{"target_modules", {target}}});
    Adapter adapter = WriteAdapter();
    ExpectRefused("has no bias that could take up the adapter's shift");
    EXPECT_FALSE(std::filesystem::exists(Path("out")));
    for (const TensorSpec& spec : adapter.layout().tensors()) {
      if (spec.role != "ssf_shift") continue;
      for (float& value : adapter.tensor(spec)) value = 0;
    }
    WriteAdapter(adapter);
    EXPECT_TRUE(Merge().ok()) << Merge().status();
  }
}

TEST_F(MergeTest, Merge_RefusesWhatChangesNoWeight) {
  WriteBert();
  adapter_config_.set_form("prompt");
  Configure({{"tokens", 2}});
  WriteAdapter();
  ExpectRefused("adapter tensor prompt_embeddings changes no weight of the base, so that it can't be merged");
  EXPECT_FALSE(std::filesystem::exists(Path("out")));
}

// A pooler stands between the base and a head; who reads the last hidden states themselves does without.
TEST_F(MergeTest, Merge_ABaseMayLackThePoolerThatTheTaskDoesNotRead) {
  WriteBert("F32", "");
  Configure({{"rank", 2}, {"target_modules", {"query", "pooler.dense"}}});
  WriteAdapter();
  ExpectRefused("the base's weights hold no bert.pooler.dense.weight");
  task_.set_type("sentence_embedding");
  task_.clear_labels();
  WriteAdapter();
  EXPECT_TRUE(Merge().ok()) << Merge().status();
}

TEST_F(MergeTest, Merge_RefusesAnotherBase) {
  WriteBert();
  Configure({{"rank", 2}, {"target_modules", {"query"}}});
  WriteAdapter();
  WriteBert("BF16");
  ExpectRefused("merge into that base");
}

TEST_F(MergeTest, Merge_RefusesWeightsThatAreNotTheConfigs) {
  WriteBert();
  Configure({{"rank", 2}, {"target_modules", {"value"}}});
  WriteAdapter();
  ExpectRefused("the base's weights hold no bert.encoder.layer.0.attention.self.value.weight");
  const std::string query = absl::StrCat(kQuery, ".weight");
  WriteWeights({{query, {4, 5}}, {absl::StrCat(kQuery, ".bias"), {4}}});
  Configure({{"rank", 2}, {"target_modules", {"query"}}});
  WriteAdapter();
  ExpectRefused("and shape [4, 5], expected F32, F16 or BF16 and [4, 4]");
  WriteWeights({{query, {4, 4}}});
  WriteAdapter();
  ExpectRefused("the base's weights hold no bert.encoder.layer.0.attention.self.query.bias");
  EXPECT_FALSE(std::filesystem::exists(Path("out")));
}

TEST_F(MergeTest, Merge_RefusesValuesThatTheDtypeCanNotHold) {
  WriteBert("F16");
  Configure({{"rank", 2}, {"target_modules", {"query"}}});
  WriteAdapter(/*magnitude=*/1000);
  ExpectRefused("after merging, which F16 can't hold");
}

TEST_F(MergeTest, Merge_RefusesAFolderInUse) {
  WriteBert();
  Configure({{"rank", 2}, {"target_modules", {"query"}}});
  WriteAdapter();
  ASSERT_TRUE(MakeDirectories(Path("out")).ok());
  EXPECT_TRUE(Merge().ok()) << "an empty one";
  ExpectRefused("expected a folder that is missing or empty", absl::StatusCode::kFailedPrecondition);
}

TEST_F(MergeTest, Merge_RefusesAFolderThatIsNoBase) {
  WriteBert();
  Configure({{"rank", 2}, {"target_modules", {"query"}}});
  WriteAdapter();
  std::filesystem::remove(Path("base/model.safetensors"));
  ExpectRefused("no *.safetensors there", absl::StatusCode::kNotFound);
  std::filesystem::remove(Path("base/config.json"));
  ExpectRefused("no config.json there", absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace weft
