#include "adapters/peft_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>

#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "adapters/forms/form.h"
#include "adapters/safetensors.h"
#include "common/file.h"
#include "nlohmann/json.hpp"

namespace weft {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kBase[] =
    R"({"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "vocab_size": 64, "max_position_embeddings": 32, "type_vocab_size": 2})";
constexpr char kQueryA[] = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight";

// A tensor file's content in a form that tests can change.
struct OwnedTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;
};
using OwnedTensors = std::map<std::string, OwnedTensor>;

class PeftFolderTest : public testing::Test {
 protected:
  PeftFolderTest() : folder_(absl::StrCat(testing::TempDir(), "/peft")) {
    std::filesystem::remove_all(folder_);
    options_.adapter.set_form("lora");
    options_.adapter.set_head(true);
    auto& fields = *options_.adapter.mutable_config()->mutable_fields();
    fields["rank"].set_number_value(2);
    fields["alpha"].set_number_value(6);
    fields["dropout"].set_number_value(0.1);
    fields["target_modules"].mutable_list_value()->add_values()->set_string_value("query");
    options_.task.set_type("sequence_classification");
    options_.task.add_labels("no");
    options_.task.add_labels("yes");
    options_.base = *DescribeBase(kBase);
    options_.base_name = "some/base";
    options_.base_hash = "beef";
  }

  std::shared_ptr<const Layout> MakeLayoutHere() const {
    return *MakeLayout(options_.adapter, options_.task, options_.base);
  }

  Adapter Write() {
    Adapter adapter = *MakeInitialAdapter(options_.adapter, options_.base, MakeLayoutHere(), 7);
    const absl::Status status = WritePeftFolder(folder_, adapter, options_);
    EXPECT_TRUE(status.ok()) << status;
    return adapter;
  }

  std::string PathOf(const char* name) const { return absl::StrCat(folder_, "/", name); }
  Json ReadJson(const char* name) const { return Json::parse(*ReadFile(PathOf(name))); }

  void ChangeConfig(const std::function<void(Json&)>& change) {
    Json config = ReadJson("adapter_config.json");
    change(config);
    EXPECT_TRUE(WriteFileAtomically(PathOf("adapter_config.json"), config.dump()).ok());
  }

  void ChangeTensors(const std::function<void(OwnedTensors&)>& change) {
    OwnedTensors tensors;
    {
      const auto file = SafetensorsFile::Open(PathOf("adapter_model.safetensors"));
      ASSERT_TRUE(file.ok()) << file.status();
      for (const auto& [name, view] : file->tensors()) {
        const std::string data(reinterpret_cast<const char*>(view.data.data()), view.data.size());
        tensors[name] = {view.dtype, view.shape, data};
      }
    }
    change(tensors);
    std::vector<SafetensorToWrite> out;
    for (const auto& [name, tensor] : tensors) {
      out.push_back(
          {name, tensor.dtype, tensor.shape, std::as_bytes(std::span(tensor.data.data(), tensor.data.size()))});
    }
    EXPECT_TRUE(WriteSafetensors(PathOf("adapter_model.safetensors"), out).ok());
  }

  absl::StatusOr<Adapter> Read() const { return Read(folder_); }
  absl::StatusOr<Adapter> Read(const std::string& folder) const {
    return ReadPeftFolder(folder, MakeLayoutHere(), options_.base, options_.task.type());
  }

  void ExpectRefused(const std::string& why, absl::StatusCode code = absl::StatusCode::kInvalidArgument) const {
    const absl::Status status = Read().status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
    EXPECT_THAT(std::string(status.message()), HasSubstr(folder_));
  }

  const std::string folder_;
  PeftFolderOptions options_;
};

// PEFT opens the folder as plain LoRA; the form itself lies beneath.
TEST_F(PeftFolderTest, Write_AFormThatPeftDoesNotKnowAsOneThatItDoes) {
  const proto::AdapterConfig lora = options_.adapter;
  options_.adapter.set_form("lora_sb");
  options_.adapter.mutable_config()->mutable_fields()->erase("alpha");
  const Adapter adapter = Write();
  const auto own = Read(PathOf("lora_sb"));
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(own->ContentHash(), adapter.ContentHash());
  EXPECT_EQ(ReadPeftConfig(PathOf("lora_sb"))->form(), "lora_sb");
  EXPECT_EQ(ReadPeftConfig(folder_)->form(), "lora");
  EXPECT_EQ(ReadJson("weft.json")["labels"], Json({"no", "yes"}));
  options_.adapter = lora;
  const auto plain = Read();
  ASSERT_TRUE(plain.ok()) << plain.status();
  const TensorSpec& a = adapter.layout().tensors()[0];
  EXPECT_TRUE(std::equal(adapter.tensor(a).begin(), adapter.tensor(a).end(), plain->values().begin()));
}

TEST_F(PeftFolderTest, Write_ReadsBackBitForBit) {
  const Adapter adapter = Write();
  const auto back = Read();
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->ContentHash(), adapter.ContentHash());
}

TEST_F(PeftFolderTest, Write_NamesTensorsAsPeft) {
  Write();
  const auto file = SafetensorsFile::Open(PathOf("adapter_model.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<std::string> names;
  for (const auto& [name, view] : file->tensors()) names.push_back(name);
  EXPECT_THAT(names,
              testing::ElementsAre(kQueryA, "base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.weight",
                                   "base_model.model.classifier.bias", "base_model.model.classifier.weight"));
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_EQ(Json::parse(file->metadata().at("weft")), ReadJson("weft.json"));
}

TEST_F(PeftFolderTest, Write_Config) {
  Write();
  const Json config = ReadJson("adapter_config.json");
  const Json expected = {{"peft_type", "LORA"},
                         {"task_type", "SEQ_CLS"},
                         {"r", 2},
                         {"lora_alpha", 6},
                         {"lora_dropout", 0.1},
                         {"target_modules", {"query"}},
                         {"modules_to_save", {"classifier"}},
                         {"bias", "none"},
                         {"fan_in_fan_out", false},
                         {"init_lora_weights", true},
                         {"inference_mode", true},
                         {"base_model_name_or_path", "some/base"}};
  for (const auto& [key, value] : expected.items()) EXPECT_EQ(config.value(key, Json("absent")), value) << key;
}

TEST_F(PeftFolderTest, Write_WeftJsonSaysWhatPeftHasNoPlaceFor) {
  const Adapter adapter = Write();
  EXPECT_EQ(ReadJson("weft.json"), Json({{"format", "weft-adapter"},
                                         {"version", 1},
                                         {"task", "sequence_classification"},
                                         {"labels", {"no", "yes"}},
                                         {"base_hash", "beef"},
                                         {"layout_hash", adapter.layout().hash()}}));
}

TEST_F(PeftFolderTest, Write_WithoutHead) {
  options_.adapter.set_head(false);
  const Adapter adapter = Write();
  EXPECT_TRUE(ReadJson("adapter_config.json")["modules_to_save"].is_null());
  EXPECT_EQ(Read()->ContentHash(), adapter.ContentHash());
  // The job trains a head, the folder has none.
  options_.adapter.set_head(true);
  ExpectRefused("no tensor base_model.model.classifier.weight");
}

std::vector<std::string> KeysIn(const std::string& folder) {
  const auto file = SafetensorsFile::Open(folder + "/adapter_model.safetensors");
  EXPECT_TRUE(file.ok()) << file.status();
  std::vector<std::string> names;
  for (const auto& [name, view] : file->tensors()) names.push_back(name);
  return names;
}

// PEFT looks for the head of such a task, and fails without.
TEST_F(PeftFolderTest, Write_TaskTypeWithoutHead) {
  options_.adapter.set_head(false);
  Write();
  EXPECT_TRUE(ReadJson("adapter_config.json")["task_type"].is_null());
}

// AutoModel is the bare model: BertModel, whose modules have no prefix.
TEST_F(PeftFolderTest, Write_OfTheBareModelWithoutPrefix) {
  options_.task.set_type("sentence_embedding");
  options_.task.clear_labels();
  const Adapter adapter = Write();
  EXPECT_THAT(KeysIn(folder_),
              testing::ElementsAre("base_model.model.encoder.layer.0.attention.self.query.lora_A.weight",
                                   "base_model.model.encoder.layer.0.attention.self.query.lora_B.weight"));
  EXPECT_EQ(ReadJson("adapter_config.json")["task_type"], "FEATURE_EXTRACTION");
  EXPECT_EQ(Read()->ContentHash(), adapter.ContentHash());
}

TEST_F(PeftFolderTest, Write_HeadOfTwoModules) {
  options_.base.tasks["sequence_classification"].head = {
      {.name = "pre_classifier", .out_features = 8, .in_features = 8},
      {.name = "classifier.dense", .out_features = 8, .in_features = 8},
      {.name = "classifier.out_proj", .in_features = 8}};
  const Adapter adapter = Write();
  EXPECT_EQ(ReadJson("adapter_config.json")["modules_to_save"], Json({"pre_classifier", "classifier"}));
  EXPECT_EQ(Read()->ContentHash(), adapter.ContentHash());
}

TEST_F(PeftFolderTest, Write_Prompt) {
  options_.adapter.set_form("prompt");
  options_.adapter.mutable_config()->Clear();
  const Adapter adapter = Write();
  EXPECT_THAT(KeysIn(folder_),
              testing::ElementsAre("base_model.classifier.bias", "base_model.classifier.weight", "prompt_embeddings"));
  EXPECT_EQ(Read()->ContentHash(), adapter.ContentHash());
}

TEST_F(PeftFolderTest, Write_AFormThatPeftHasNothingLike) {
  options_.adapter.set_form("ssf");
  options_.adapter.mutable_config()->Clear();
  const Adapter adapter = Write();
  EXPECT_EQ(ReadJson("adapter_config.json")["peft_type"], "WEFT_SSF");
  EXPECT_EQ(Read()->ContentHash(), adapter.ContentHash());
  EXPECT_EQ(ReadPeftConfig(folder_)->form(), "ssf");
}

TEST_F(PeftFolderTest, Write_TaskOfAnotherBase) {
  options_.task.set_type("causal_lm");
  const Adapter adapter(*Layout::Create({{"a", "b", {1}}}));
  EXPECT_THAT(std::string(WritePeftFolder(folder_, adapter, options_).message()), HasSubstr("does no \"causal_lm\""));
}

TEST_F(PeftFolderTest, Load_OurOwnFolder) {
  const Adapter adapter = Write();
  const auto loaded = LoadPeftFolder(folder_, options_.base);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->task.DebugString(), options_.task.DebugString());
  EXPECT_EQ(loaded->config.DebugString(), options_.adapter.DebugString());
  EXPECT_EQ(loaded->base_hash, "beef");
  EXPECT_EQ(loaded->adapter.ContentHash(), adapter.ContentHash());
}

TEST_F(PeftFolderTest, Load_OfPeftItself) {
  const Adapter adapter = Write();
  std::filesystem::remove(PathOf("weft.json"));
  const auto loaded = LoadPeftFolder(folder_, options_.base);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->task.type(), "sequence_classification");
  EXPECT_THAT(loaded->task.labels(), testing::ElementsAre("LABEL_0", "LABEL_1"));
  EXPECT_EQ(loaded->base_hash, "");
  EXPECT_EQ(loaded->adapter.ContentHash(), adapter.ContentHash());
}

TEST_F(PeftFolderTest, Load_Refuses) {
  Write();
  std::filesystem::remove(PathOf("weft.json"));
  ChangeConfig([](Json& config) { config["task_type"] = nullptr; });
  EXPECT_THAT(std::string(LoadPeftFolder(folder_, options_.base).status().message()),
              HasSubstr("\"task_type\" is null, which fits 0 tasks"));
  ASSERT_TRUE(WriteFileAtomically(PathOf("weft.json"), std::string_view(R"({"task": 3})")).ok());
  EXPECT_THAT(std::string(LoadPeftFolder(folder_, options_.base).status().message()),
              HasSubstr("weft.json: expected task, base_hash and labels"));
}

TEST_F(PeftFolderTest, Write_UnknownForm) {
  const Adapter adapter(MakeLayoutHere());
  options_.adapter.set_form("knitting");
  EXPECT_EQ(WritePeftFolder(folder_, adapter, options_).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(std::filesystem::exists(folder_));
}

TEST_F(PeftFolderTest, ReadConfig_IsTheOneWritten) {
  Write();
  const auto config = ReadPeftConfig(folder_);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->DebugString(), options_.adapter.DebugString());
}

TEST_F(PeftFolderTest, Read_MissingFiles) {
  ExpectRefused("no adapter_config.json there", absl::StatusCode::kNotFound);
  Write();
  std::filesystem::remove(PathOf("adapter_model.safetensors"));
  ExpectRefused("no adapter_model.safetensors there", absl::StatusCode::kNotFound);
}

TEST_F(PeftFolderTest, Read_DamagedFiles) {
  Write();
  ASSERT_TRUE(WriteFileAtomically(PathOf("adapter_model.safetensors"), std::string_view("garbage")).ok());
  ExpectRefused("truncated", absl::StatusCode::kDataLoss);
  ASSERT_TRUE(WriteFileAtomically(PathOf("adapter_config.json"), std::string_view("{")).ok());
  ExpectRefused("no JSON object");
}

TEST_F(PeftFolderTest, Read_RefusesAConfigThatIsNotPlainLora) {
  const std::pair<const char*, Json> cases[] = {{"use_dora", true},
                                                {"bias", "all"},
                                                {"init_lora_weights", "pissa"},
                                                {"init_lora_weights", "olora"},
                                                {"init_lora_weights", "corda"},
                                                {"peft_type", "PREFIX_TUNING"}};
  for (const auto& [key, value] : cases) {
    Write();
    ChangeConfig([key = key, &value = value](Json& config) { config[key] = value; });
    ExpectRefused(absl::StrCat("\"", key, "\""));
  }
}

TEST_F(PeftFolderTest, Read_MissingTensor) {
  Write();
  ChangeTensors([](OwnedTensors& tensors) { tensors.erase(kQueryA); });
  ExpectRefused(absl::StrCat("no tensor ", kQueryA));
}

TEST_F(PeftFolderTest, Read_SurplusTensor) {
  const std::string names[] = {"base_model.model.bert.encoder.layer.0.attention.self.key.lora_A.weight",
                               "classifier.weight",
                               "base_model.model.bert.encoder.layer.0.attention.self.query.lora_magnitude_vector"};
  for (const std::string& name : names) {
    Write();
    ChangeTensors([&](OwnedTensors& tensors) { tensors[name] = tensors.begin()->second; });
    ExpectRefused(absl::StrCat("tensor ", name, " has no place"));
  }
}

TEST_F(PeftFolderTest, Read_MisshapenTensor) {
  Write();
  ChangeTensors([](OwnedTensors& tensors) { tensors[kQueryA].shape = {8, 2}; });
  ExpectRefused(absl::StrCat("tensor ", kQueryA, " has shape [8, 2], expected [2, 8]"));
}

TEST_F(PeftFolderTest, Read_AnotherDtype) {
  Write();
  ChangeTensors([](OwnedTensors& tensors) { tensors[kQueryA].dtype = "I32"; });
  ExpectRefused(absl::StrCat("tensor ", kQueryA, " has dtype I32, expected F32, F16 or BF16"));
}

TEST_F(PeftFolderTest, Read_WidensHalves) {
  struct Case {
    const char* dtype;
    std::vector<uint16_t> bits;
    std::vector<float> values;
  };
  const Case cases[] = {
      // One, the largest, the smallest normal and subnormal, a large subnormal, negative zero, infinity.
      {"F16",
       {0x3c00, 0xfbff, 0x0400, 0x8001, 0x03ff, 0x8000, 0x7c00},
       {1.0f, -65504.0f, 0x1p-14f, -0x1p-24f, 1023 * 0x1p-24f, -0.0f, INFINITY}},
      {"BF16", {0x3f80, 0xc049, 0x0001, 0x8000, 0xff80}, {1.0f, -3.140625f, 0x1p-133f, -0.0f, -INFINITY}}};
  for (const Case& c : cases) {
    Write();
    ChangeTensors([&](OwnedTensors& tensors) {
      OwnedTensor& tensor = tensors[kQueryA];
      tensor.dtype = c.dtype;
      tensor.data = std::string(2 * 8 * 2, '\0');
      std::memcpy(tensor.data.data(), c.bits.data(), 2 * c.bits.size());
    });
    const auto adapter = Read();
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    EXPECT_EQ(std::memcmp(adapter->values().data(), c.values.data(), 4 * c.values.size()), 0) << c.dtype;
    EXPECT_EQ(adapter->values()[15], 0.0f);
  }
}

TEST_F(PeftFolderTest, Read_HalfNanStaysNan) {
  for (const auto& [dtype, bits] : {std::pair<const char*, uint16_t>{"F16", 0x7e00}, {"BF16", 0x7fc0}}) {
    Write();
    ChangeTensors([&, dtype = dtype, bits = bits](OwnedTensors& tensors) {
      tensors[kQueryA].dtype = dtype;
      tensors[kQueryA].data = std::string(2 * 8 * 2, '\0');
      std::memcpy(tensors[kQueryA].data.data(), &bits, 2);
    });
    EXPECT_TRUE(std::isnan(Read()->values()[0])) << dtype;
  }
}

}  // namespace
}  // namespace weft
