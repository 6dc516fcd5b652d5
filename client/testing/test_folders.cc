#include "client/testing/test_folders.h"

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <span>

#include "absl/strings/str_cat.h"
#include "adapters/safetensors.h"
#include "common/file.h"
#include "nlohmann/json.hpp"

namespace weft {
namespace {

void CheckOk(const absl::Status& status) {
  if (status.ok()) return;
  std::cerr << status << std::endl;
  std::abort();
}

constexpr int64_t kTokensPerRow = 3;

void WriteSplit(const std::string& path, int64_t rows, int64_t labels) {
  std::vector<int32_t> tokens(rows * kTokensPerRow);
  std::vector<int64_t> offsets = {0};
  std::vector<int32_t> classes;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < kTokensPerRow; ++i)
      tokens[row * kTokensPerRow + i] = static_cast<int32_t>(1 + (row + i) % 7);
    offsets.push_back((row + 1) * kTokensPerRow);
    classes.push_back(static_cast<int32_t>(row % labels));
  }
  CheckOk(WriteSafetensors(path, {{"input_ids", "I32", {rows * kTokensPerRow}, std::as_bytes(std::span(tokens))},
                                  {"row_offsets", "I64", {rows + 1}, std::as_bytes(std::span(offsets))},
                                  {"labels", "I32", {rows}, std::as_bytes(std::span(classes))}}));
}

}  // namespace

std::string MakeTestFolder(const std::string& name) {
  const char* root = std::getenv("TEST_TMPDIR");
  const std::filesystem::path folder = std::filesystem::path(root == nullptr ? "/tmp" : root) / name;
  std::filesystem::remove_all(folder);
  CheckOk(MakeDirectories(folder.string()));
  return folder.string();
}

void WriteTestBase(const std::string& folder, int64_t hidden_size, float seed) {
  CheckOk(MakeDirectories(folder));
  const nlohmann::json config = {{"model_type", "bert"},
                                 {"architectures", {"BertModel"}},
                                 {"vocab_size", 8},
                                 {"hidden_size", hidden_size},
                                 {"num_hidden_layers", 1},
                                 {"num_attention_heads", 2},
                                 {"intermediate_size", 2 * hidden_size},
                                 {"hidden_act", "gelu"},
                                 {"hidden_dropout_prob", 0.1},
                                 {"attention_probs_dropout_prob", 0.1},
                                 {"max_position_embeddings", 16},
                                 {"type_vocab_size", 2},
                                 {"initializer_range", 0.02},
                                 {"layer_norm_eps", 1e-12},
                                 {"pad_token_id", 0}};
  CheckOk(WriteFileAtomically(absl::StrCat(folder, "/config.json"), config.dump(2)));
  CheckOk(WriteSafetensors(absl::StrCat(folder, "/model.safetensors"),
                           {{"seed", "F32", {1}, std::as_bytes(std::span(&seed, 1))}}));
}

void WriteTestData(const std::string& folder, const TestData& data) {
  CheckOk(MakeDirectories(folder));
  nlohmann::json splits = nlohmann::json::object();
  const auto add = [&](const std::string& name, int64_t rows) {
    if (rows == 0) return;
    const std::string file = name + ".safetensors";
    WriteSplit(absl::StrCat(folder, "/", file), rows, static_cast<int64_t>(data.labels.size()));
    splits[name] = {{"file", file}, {"rows", rows}, {"tokens", rows * kTokensPerRow}, {"sha256", ""}};
  };
  add("train", data.train_rows);
  add("test", data.test_rows);
  const nlohmann::json manifest = {{"format", "weft-data"},      {"version", 1},     {"task", data.task},
                                   {"labels", data.labels},      {"max_length", 16}, {"tokenizer_sha256", ""},
                                   {"splits", std::move(splits)}};
  CheckOk(WriteFileAtomically(absl::StrCat(folder, "/manifest.json"), manifest.dump(2)));
}

}  // namespace weft
