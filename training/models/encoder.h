#ifndef WEFT_TRAINING_MODELS_ENCODER_H_
#define WEFT_TRAINING_MODELS_ENCODER_H_

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "training/forms/form.h"
#include "training/models/family.h"
#include "training/models/packed_batch.h"
#include "training/models/weights.h"

namespace weft {

// The one transformer encoder (Vaswani et al., arXiv 1706.03762, with the norm after each part), frozen, for every
// family. Rows come packed, so no padding is computed; the last layer is computed only for the first token of each row,
// which alone is read. Adapters attach to its linear modules; no activation is kept and no gradient computed below the
// first of them. Immutable: threads may share it.
class Encoder {
 public:
  // `weights` must outlive the encoder. INVALID_ARGUMENT as BaseWeights::Get.
  static absl::StatusOr<std::unique_ptr<Encoder>> Create(const Family& family, const EncoderConfig& config,
                                                         const BaseWeights& weights, at::Device device);

  const EncoderConfig& config() const { return config_; }
  // Modules a form can attach to, the pooler's last.
  const std::vector<FrozenLinear>& linears() const { return linears_; }

  // Pooled first token of each row: tanh(dense(hidden state)), [rows, hidden]. `linears`: linears(), or what stands in
  // their place, in their order. `form` has an entry per linear.
  at::Tensor Forward(const PackedBatch& batch, const std::vector<FrozenLinear>& linears, const AttachedForm& form,
                     DropoutSource& dropout) const;

 private:
  struct Norm {
    at::Tensor weight, bias;  // [hidden]
    double epsilon;
    at::Tensor Forward(const at::Tensor& x) const;
  };
  // Indices into linears_.
  struct Layer {
    size_t query, key, value, attention_output, intermediate, output;
    Norm attention_norm, output_norm;
  };
  // Where weights, adapters and dropout of one pass come from.
  struct Pass {
    const PackedBatch& batch;
    const std::vector<FrozenLinear>& linears;
    const AttachedForm& form;
    DropoutSource& dropout;
  };
  class Builder;

  explicit Encoder(const EncoderConfig& config) : config_(config) {}

  at::Tensor Embed(const PackedBatch& batch) const;  // [tokens, hidden]
  // x [tokens, hidden] -> [tokens, hidden], or [rows, hidden] when only first tokens are wanted.
  at::Tensor RunLayer(const Layer& layer, const at::Tensor& x, bool first_only, Pass& pass) const;
  static at::Tensor RunLinear(size_t index, const at::Tensor& x, Pass& pass);

  const EncoderConfig config_;
  at::Tensor word_embeddings_;      // [vocabulary, hidden]
  at::Tensor position_embeddings_;  // [max_positions, hidden]
  at::Tensor type_embedding_;       // [hidden]: token type 0
  Norm embedding_norm_;
  std::vector<FrozenLinear> linears_;
  std::vector<Layer> layers_;
  size_t pooler_ = 0;
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_ENCODER_H_
