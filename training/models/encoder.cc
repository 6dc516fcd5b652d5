#include "training/models/encoder.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/layer_norm.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/status_macros.h"
#include "training/models/attention.h"

namespace weft {

// Collects an encoder's tensors from a checkpoint.
class Encoder::Builder {
 public:
  Builder(const Family& family, const BaseWeights& weights, at::Device device, Encoder* encoder)
      : modules_(family.modules), weights_(weights), device_(device), config_(encoder->config_), encoder_(*encoder) {}

  absl::Status Build() {
    const int64_t hidden = config_.hidden;
    WEFT_ASSIGN_OR_RETURN(encoder_.word_embeddings_,
                          Get(modules_.word_embeddings, ".weight", {config_.vocabulary, hidden}));
    WEFT_ASSIGN_OR_RETURN(encoder_.position_embeddings_,
                          Get(modules_.position_embeddings, ".weight", {config_.max_positions, hidden}));
    WEFT_ASSIGN_OR_RETURN(const at::Tensor types,
                          Get(modules_.token_type_embeddings, ".weight", {config_.token_types, hidden}));
    encoder_.type_embedding_ = types[0];
    WEFT_ASSIGN_OR_RETURN(encoder_.embedding_norm_, GetNorm(modules_.embedding_norm));
    for (int64_t i = 0; i < config_.layers; ++i) WEFT_RETURN_IF_ERROR(AddLayer(i));
    WEFT_ASSIGN_OR_RETURN(encoder_.pooler_, AddLinear(modules_.pooler, hidden, hidden));
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<at::Tensor> Get(const std::string& module, const char* parameter,
                                 const std::vector<int64_t>& shape) const {
    return weights_.Get(modules_.prefix, module + parameter, shape, device_);
  }

  absl::StatusOr<Norm> GetNorm(const std::string& module) const {
    WEFT_ASSIGN_OR_RETURN(at::Tensor weight, Get(module, ".weight", {config_.hidden}));
    WEFT_ASSIGN_OR_RETURN(at::Tensor bias, Get(module, ".bias", {config_.hidden}));
    return Norm{.weight = std::move(weight), .bias = std::move(bias), .epsilon = config_.norm_epsilon};
  }

  absl::StatusOr<size_t> AddLinear(const std::string& module, int64_t out, int64_t in) {
    WEFT_ASSIGN_OR_RETURN(at::Tensor weight, Get(module, ".weight", {out, in}));
    WEFT_ASSIGN_OR_RETURN(at::Tensor bias, Get(module, ".bias", {out}));
    encoder_.linears_.emplace_back(modules_.prefix + module, std::move(weight), std::move(bias));
    return encoder_.linears_.size() - 1;
  }

  absl::Status AddLayer(int64_t number) {
    const auto name = [number](const char* pattern) {
      return absl::StrReplaceAll(pattern, {{"$", absl::StrCat(number)}});
    };
    const int64_t hidden = config_.hidden, intermediate = config_.intermediate;
    Layer layer;
    WEFT_ASSIGN_OR_RETURN(layer.query, AddLinear(name(modules_.query), hidden, hidden));
    WEFT_ASSIGN_OR_RETURN(layer.key, AddLinear(name(modules_.key), hidden, hidden));
    WEFT_ASSIGN_OR_RETURN(layer.value, AddLinear(name(modules_.value), hidden, hidden));
    WEFT_ASSIGN_OR_RETURN(layer.attention_output, AddLinear(name(modules_.attention_output), hidden, hidden));
    WEFT_ASSIGN_OR_RETURN(layer.attention_norm, GetNorm(name(modules_.attention_norm)));
    WEFT_ASSIGN_OR_RETURN(layer.intermediate, AddLinear(name(modules_.intermediate), intermediate, hidden));
    WEFT_ASSIGN_OR_RETURN(layer.output, AddLinear(name(modules_.output), hidden, intermediate));
    WEFT_ASSIGN_OR_RETURN(layer.output_norm, GetNorm(name(modules_.output_norm)));
    encoder_.layers_.push_back(std::move(layer));
    return absl::OkStatus();
  }

  const EncoderModuleNames& modules_;
  const BaseWeights& weights_;
  const at::Device device_;
  const EncoderConfig& config_;
  Encoder& encoder_;
};

absl::StatusOr<std::unique_ptr<Encoder>> Encoder::Create(const Family& family, const EncoderConfig& config,
                                                         const BaseWeights& weights, at::Device device) {
  std::unique_ptr<Encoder> encoder(new Encoder(config, device));
  WEFT_RETURN_IF_ERROR(Builder(family, weights, device, encoder.get()).Build());
  return encoder;
}

absl::Status Encoder::CheckShard(const DataShard& shard) const {
  if (shard.width() == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("rows of ", shard.width(),
                                                 " features, the base reads tokens; use data that `weft prepare` made "
                                                 "with the base's tokenizer"));
}

absl::StatusOr<Batch> Encoder::MakeBatch(const DataShard& shard, std::span<const int64_t> rows, int64_t max_length,
                                         int64_t num_labels) const {
  return PackRows(shard, rows, max_length, num_labels, config_.vocabulary, device_);
}

at::Tensor Encoder::Forward(const Batch& batch, const std::vector<FrozenLinear>& linears, const AttachedForm& form,
                            DropoutSource& dropout) const {
  Pass pass{.batch = batch, .linears = linears, .form = form, .dropout = dropout};
  at::Tensor x = Embed(batch);
  for (size_t i = 0; i < layers_.size(); ++i) x = RunLayer(layers_[i], x, /*first_only=*/i + 1 == layers_.size(), pass);
  return Run(pooler_, x, pass).tanh();
}

at::Tensor Encoder::Embed(const Batch& batch) const {
  at::Tensor x = at::index_select(word_embeddings_, 0, batch.ids);
  x.add_(type_embedding_).add_(at::index_select(position_embeddings_, 0, batch.positions));
  return embedding_norm_.Forward(x);
}

at::Tensor Encoder::RunLayer(const Layer& layer, const at::Tensor& x, bool first_only, Pass& pass) const {
  const at::Tensor& offsets = pass.batch.offsets;
  const at::Tensor key = Run(layer.key, x, pass), value = Run(layer.value, x, pass);
  const at::Tensor kept = first_only ? x.index_select(0, pass.batch.first) : x;
  const at::Tensor query = Run(layer.query, kept, pass);
  const at::Tensor query_offsets = first_only ? at::arange(offsets.size(0), offsets.options()) : offsets;
  const at::Tensor mixed = PackedAttention(query, key, value, query_offsets, offsets, config_.heads);
  const at::Tensor attended = layer.attention_norm.Forward(Run(layer.attention_output, mixed, pass).add_(kept));
  const at::Tensor inner = at::gelu(Run(layer.intermediate, attended, pass));
  return layer.output_norm.Forward(Run(layer.output, inner, pass).add_(attended));
}

at::Tensor Encoder::Norm::Forward(const at::Tensor& x) const {
  return at::layer_norm(x, {weight.size(0)}, weight, bias, epsilon);
}

}  // namespace weft
