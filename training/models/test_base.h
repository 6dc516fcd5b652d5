#ifndef WEFT_TRAINING_MODELS_TEST_BASE_H_
#define WEFT_TRAINING_MODELS_TEST_BASE_H_

// A tiny BERT with random weights, as a Hugging Face folder, for tests.

#include <cstdint>
#include <cstdlib>
#include <list>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/safetensors.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace weft {

struct TestBase {
  static constexpr int64_t kHidden = 24, kLayers = 2, kHeads = 3, kIntermediate = 40, kVocabulary = 50, kPositions = 16;

  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    std::vector<float> values;
  };

  explicit TestBase(const std::string& prefix = "") {
    Add(prefix + "embeddings.word_embeddings.weight", {kVocabulary, kHidden});
    Add(prefix + "embeddings.position_embeddings.weight", {kPositions, kHidden});
    Add(prefix + "embeddings.token_type_embeddings.weight", {2, kHidden});
    AddModule(prefix + "embeddings.LayerNorm", {kHidden});
    for (int64_t i = 0; i < kLayers; ++i) {
      const std::string layer = absl::StrCat(prefix, "encoder.layer.", i, ".");
      for (const char* name :
           {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"}) {
        AddModule(layer + name, {kHidden, kHidden});
      }
      AddModule(layer + "attention.output.LayerNorm", {kHidden});
      AddModule(layer + "intermediate.dense", {kIntermediate, kHidden});
      AddModule(layer + "output.dense", {kHidden, kIntermediate});
      AddModule(layer + "output.LayerNorm", {kHidden});
    }
    AddModule(prefix + "pooler.dense", {kHidden, kHidden});
  }

  Tensor& Find(const std::string& suffix) {
    for (Tensor& tensor : tensors) {
      if (tensor.name.ends_with(suffix)) return tensor;
    }
    std::abort();
  }

  absl::Status Write(const std::string& folder) const {
    WEFT_RETURN_IF_ERROR(MakeDirectories(folder));
    WEFT_RETURN_IF_ERROR(WriteFileAtomically(folder + "/config.json", std::string_view(config.dump())));
    std::vector<SafetensorToWrite> out;
    for (const Tensor& tensor : tensors) {
      out.push_back({tensor.name, "F32", tensor.shape, std::as_bytes(std::span<const float>(tensor.values))});
    }
    return WriteSafetensors(folder + "/model.safetensors", out);
  }

  nlohmann::json config = {{"model_type", "bert"},
                           {"hidden_size", kHidden},
                           {"num_hidden_layers", kLayers},
                           {"num_attention_heads", kHeads},
                           {"intermediate_size", kIntermediate},
                           {"vocab_size", kVocabulary},
                           {"max_position_embeddings", kPositions},
                           {"type_vocab_size", 2},
                           {"layer_norm_eps", 1e-12},
                           {"hidden_act", "gelu"},
                           {"initializer_range", 0.02}};
  std::list<Tensor> tensors;

 private:
  void AddModule(const std::string& name, const std::vector<int64_t>& shape) {
    Add(name + ".weight", shape);
    Add(name + ".bias", {shape[0]});
  }

  void Add(const std::string& name, const std::vector<int64_t>& shape) {
    Tensor tensor{.name = name, .shape = shape, .values = {}};
    const float centre = name.ends_with("LayerNorm.weight") ? 1 : 0;
    int64_t size = 1;
    for (const int64_t d : shape) size *= d;
    for (int64_t i = 0; i < size; ++i) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      tensor.values.push_back(centre +
                              static_cast<float>(static_cast<int64_t>(state_ >> 33) - (1ll << 30)) / (1ll << 32));
    }
    tensors.push_back(std::move(tensor));
  }

  uint64_t state_ = 1;
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_TEST_BASE_H_
