#ifndef WEFT_TRAINING_MODELS_TEST_MLP_H_
#define WEFT_TRAINING_MODELS_TEST_MLP_H_

// A small multilayer perceptron with random weights, as a folder, for tests and benchmarks.

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/safetensors.h"
#include "common/file.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace weft {

struct TestMlp {
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    std::vector<float> values;
  };

  explicit TestMlp(const std::vector<int64_t>& sizes)
      : config({{"model_type", "mlp"}, {"sizes", sizes}, {"activation", "relu"}}) {
    for (size_t i = 0; i + 1 < sizes.size(); ++i) {
      const std::string name = i + 2 < sizes.size() ? absl::StrCat("layers.", i) : "head";
      Add(name + ".weight", {sizes[i + 1], sizes[i]}, sizes[i]);
      Add(name + ".bias", {sizes[i + 1]}, sizes[i]);
    }
  }

  absl::Status Write(const std::string& folder) const {
    WEFT_RETURN_IF_ERROR(MakeDirectories(folder));
    WEFT_RETURN_IF_ERROR(WriteFileAtomically(folder + "/config.json", std::string_view(config.dump())));
    std::vector<SafetensorToWrite> out;
    for (const Tensor& tensor : tensors)
      out.push_back({tensor.name, "F32", tensor.shape, std::as_bytes(std::span<const float>(tensor.values))});
    return WriteSafetensors(folder + "/model.safetensors", out);
  }

  nlohmann::json config;
  std::vector<Tensor> tensors;

 private:
  // Uniform as torch.nn.Linear starts.
  void Add(const std::string& name, const std::vector<int64_t>& shape, int64_t in) {
    Tensor tensor{.name = name, .shape = shape, .values = {}};
    Philox random(/*seed=*/1, StreamId(name));
    int64_t size = 1;
    for (const int64_t d : shape) size *= d;
    for (int64_t i = 0; i < size; ++i)
      tensor.values.push_back((2 * random.NextFloat() - 1) / std::sqrt(static_cast<float>(in)));
    tensors.push_back(std::move(tensor));
  }
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_TEST_MLP_H_
