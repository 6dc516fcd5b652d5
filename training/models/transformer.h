#ifndef WEFT_TRAINING_MODELS_TRANSFORMER_H_
#define WEFT_TRAINING_MODELS_TRANSFORMER_H_

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "training/models/model.h"
#include "training/models/weights.h"
#include "training/ops/attention.h"
#include "training/ops/norm.h"

namespace weft {

// Keys and values of one row that has been read so far, for the next tokens of it.
struct KeyValueCache {
  std::vector<at::Tensor> layers;  // [places, 2 key_heads head_dim] each, of which `length` are filled
  int64_t length = 0;
};

// The one transformer for every family, frozen, as adapters/transformer.h describes it. Rows come packed, so no padding
// is computed; the last layer is computed only for the places that are read.
class TransformerModel : public Model {
 public:
  // `weights` must outlive it. INVALID_ARGUMENT as BaseWeights::Get.
  static absl::StatusOr<std::unique_ptr<TransformerModel>> Create(const BaseDescription& base, BaseWeights& weights,
                                                                  at::Device device);

  const std::vector<FrozenLinear>& linears() const override { return linears_; }
  int64_t max_length() const override { return config_.patches.has_value() ? 0 : config_.max_positions; }
  absl::Status CheckShard(const DataShard& shard, const std::string& task) const override;
  absl::StatusOr<Batch> MakeBatch(std::span<const MemberRows> members, const BatchOptions& options,
                                  int64_t* member) const override;
  at::Tensor Forward(const Batch& batch, const std::vector<FrozenLinear>& linears, Pass& pass) const override;
  int64_t BytesPerToken(at::ScalarType dtype, bool checkpointing) const override;

  // The last hidden states of the next tokens of one row, [tokens, hidden]: `batch` has one member and row, which is
  // what follows on what `cache` holds; all is added to it. Outside autograd; every place is read.
  at::Tensor Continue(const Batch& batch, const std::vector<FrozenLinear>& linears, Pass& pass,
                      KeyValueCache* cache) const;
  // An empty cache with room for this many tokens.
  KeyValueCache MakeCache(int64_t places, at::ScalarType dtype) const;

  // [vocabulary, hidden] on the device: what causal_lm multiplies the last hidden states with. INVALID_ARGUMENT: the
  // checkpoint has none.
  absl::StatusOr<at::Tensor> LmHead(at::ScalarType dtype) const;

 private:
  // Indices into linears_; -1: not there.
  struct Layer {
    int query_key_value = -1;                       // one product for all three, or
    int query = -1, key_value = -1;                 // one for queries and one for the rest
    int attention_output = -1, up = -1, down = -1;  // up: gate and up side by side where there is a gate
    int attention_norm = -1, feed_forward_norm = -1, query_norm = -1, key_norm = -1;
  };
  // The residual stream and its norm, where norms come first; else both are the same.
  struct Stream {
    at::Tensor sum, normed;
  };
  struct Work;
  class Builder;

  TransformerModel(const BaseDescription& base, at::Device device)
      : base_(base), config_(*base.transformer), device_(device) {}

  at::Tensor Embed(const Batch& batch, Pass& pass) const;
  at::Tensor EmbedPatches(const Batch& batch, Pass& pass) const;
  at::Tensor PutPrompt(const at::Tensor& x, int64_t layer, const Work& work) const;
  Stream RunLayer(size_t index, const Stream& in, Work& work) const;
  Stream RunCheckpointed(size_t index, const Stream& in, Work& work) const;
  bool IsAdapted(const Layer& layer, const Work& work) const;
  // Attention of all tokens, or of those read in the last layer: before its output projection.
  at::Tensor Attend(size_t index, const at::Tensor& x, bool read_only, Work& work) const;
  at::Tensor AttendCached(size_t index, const at::Tensor& x, Work& work) const;
  at::Tensor NormaliseQueriesAndKeys(const Layer& layer, const at::Tensor& packed) const;
  at::Tensor Run(int linear, const at::Tensor& x, const Segments& segments, Work& work) const;
  at::Tensor Normed(int norm, const at::Tensor& x, const Segments& segments, Work& work) const;
  Stream AddAndNorm(int norm, const at::Tensor& x, const at::Tensor& residual, const Segments& segments,
                    Work& work) const;
  int NormAfter(size_t layer) const;  // where norms come first: the next layer's first, or the final one

  const BaseDescription base_;
  const Transformer config_;
  const at::Device device_;
  AttentionShape attention_;
  RotaryTables rotary_;
  at::Tensor word_embeddings_;      // [vocabulary, hidden], as stored
  at::Tensor position_embeddings_;  // [max_positions, hidden] fp32, from the first token's on; undefined: none
  at::Tensor type_embedding_;       // [hidden] fp32; undefined: none
  at::Tensor class_token_;          // [hidden] fp32
  std::vector<FrozenNorm> norms_;   // in the order of BaseDescription::norms
  std::vector<FrozenLinear> linears_;
  std::vector<FrozenLinear> patch_projection_;  // one, or none
  std::vector<Layer> layers_;
  absl::StatusOr<at::Tensor> lm_head_;  // as stored
  mutable std::mutex mutex_;
  mutable std::map<at::ScalarType, at::Tensor> lm_heads_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_TRANSFORMER_H_
