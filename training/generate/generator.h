#ifndef WEFT_TRAINING_GENERATE_GENERATOR_H_
#define WEFT_TRAINING_GENERATE_GENERATOR_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "training/base_model.h"
#include "training/cohort_tensors.h"

namespace weft {

// Text from a language model with an adapter: each next token is the likeliest one. Not thread-safe. Throws what
// LibTorch throws.
class Generator {
 public:
  struct Options {
    std::string base;     // Hugging Face folder
    std::string adapter;  // PEFT folder of a causal_lm task; empty: none
    std::string device = "auto";
    std::string compute = "f32";  // or bf16
  };
  // INVALID_ARGUMENT: a base that is no language model, an adapter that does not fit it. NOT_FOUND: a missing folder.
  static absl::StatusOr<std::unique_ptr<Generator>> Create(const Options& options);

  // The tokens that follow on `prompt`, up to `most` of them; one of `stop` ends the text and is the last. `next` gets
  // each as it comes; false ends the text. INVALID_ARGUMENT: no token, one outside the vocabulary, more tokens with the
  // prompt's than the base has positions for.
  absl::StatusOr<std::vector<int32_t>> Generate(std::span<const int32_t> prompt, int64_t most,
                                                const std::set<int32_t>& stop,
                                                const std::function<bool(int32_t token)>& next) const;

 private:
  Generator(std::unique_ptr<BaseModel> base, at::ScalarType dtype) : base_(std::move(base)), dtype_(dtype) {}
  absl::Status AttachAdapter(const std::string& folder);
  int32_t Likeliest(const at::Tensor& hidden, const at::Tensor& head) const;

  const std::unique_ptr<BaseModel> base_;
  const at::ScalarType dtype_;
  int64_t prompt_tokens_ = 0;  // of the adapter
  std::unique_ptr<CohortTensors> tensors_;
  std::unique_ptr<AttachedForm> form_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_GENERATE_GENERATOR_H_
