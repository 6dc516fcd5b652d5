#ifndef WEFT_TRAINING_MODELS_ENCODER_H_
#define WEFT_TRAINING_MODELS_ENCODER_H_

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "training/models/family.h"
#include "training/models/model.h"
#include "training/models/weights.h"

namespace weft {

// The one transformer encoder (Vaswani et al., arXiv 1706.03762, with the norm after each part), frozen, for every
// family. Rows come packed, so no padding is computed; the last layer is computed only for the first token of each row,
// which alone is read. The pooler is the last of its linears.
class Encoder : public Model {
 public:
  // `weights` must outlive the encoder. INVALID_ARGUMENT as BaseWeights::Get.
  static absl::StatusOr<std::unique_ptr<Encoder>> Create(const Family& family, const EncoderConfig& config,
                                                         const BaseWeights& weights, at::Device device);

  const EncoderConfig& config() const { return config_; }
  const std::vector<FrozenLinear>& linears() const override { return linears_; }
  int64_t max_length() const override { return config_.max_positions; }
  absl::Status CheckShard(const DataShard& shard) const override;
  absl::StatusOr<Batch> MakeBatch(const DataShard& shard, std::span<const int64_t> rows, int64_t max_length,
                                  int64_t num_labels) const override;
  // Pooled first token of each row: tanh(dense(hidden state)), [rows, hidden].
  at::Tensor Forward(const Batch& batch, const std::vector<FrozenLinear>& linears, const AttachedForm& form,
                     DropoutSource& dropout) const override;

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
    const Batch& batch;
    const std::vector<FrozenLinear>& linears;
    const AttachedForm& form;
    DropoutSource& dropout;
  };
  class Builder;

  Encoder(const EncoderConfig& config, at::Device device) : config_(config), device_(device) {}

  static at::Tensor Run(size_t index, const at::Tensor& x, Pass& pass) {
    return RunLinear(index, x, pass.linears, pass.form, pass.dropout);
  }
  at::Tensor Embed(const Batch& batch) const;  // [tokens, hidden]
  // x [tokens, hidden] -> [tokens, hidden], or [rows, hidden] when only first tokens are wanted.
  at::Tensor RunLayer(const Layer& layer, const at::Tensor& x, bool first_only, Pass& pass) const;

  const EncoderConfig config_;
  const at::Device device_;
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
