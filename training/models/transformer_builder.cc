// Reads a transformer's tensors from a checkpoint.

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "training/models/transformer.h"

namespace weft {

class TransformerModel::Builder {
 public:
  Builder(BaseWeights& weights, TransformerModel* model)
      : weights_(weights), base_(model->base_), config_(model->config_), device_(model->device_), model_(*model) {}

  absl::Status Build() {
    model_.attention_ = {.heads = config_.heads,
                         .key_heads = config_.key_heads,
                         .head_dim = config_.head_dim,
                         .causal = config_.causal,
                         .sliding_window = config_.sliding_window};
    if (config_.rotary.has_value()) {
      model_.rotary_ = MakeRotaryTables(*config_.rotary, config_.max_positions, device_);
    }
    WEFT_RETURN_IF_ERROR(AddEmbeddings());
    for (const NormModule& norm : base_.norms) WEFT_RETURN_IF_ERROR(AddNorm(norm));
    std::vector<bool> grouped(base_.linears.size());
    for (size_t i = 0; i < config_.layers.size(); ++i) {
      WEFT_RETURN_IF_ERROR(AddLayer(config_.layers[i], /*last=*/i + 1 == config_.layers.size(), grouped));
    }
    for (size_t i = 0; i < base_.linears.size(); ++i) {
      // Poolers, which some tasks do without, and checkpoints of others lack.
      if (grouped[i] || !weights_.Has(base_.linears[i].name + ".weight")) continue;
      WEFT_RETURN_IF_ERROR(AddGroup({static_cast<int>(i)}, grouped).status());
    }
    return weights_.CheckAllTaken(config_.ignored);
  }

 private:
  absl::StatusOr<at::Tensor> Get(const std::string& name, const std::vector<int64_t>& shape) {
    WEFT_ASSIGN_OR_RETURN(const at::Tensor tensor, weights_.Take(name, shape));
    return tensor.to(device_, at::kFloat);
  }

  absl::Status AddEmbeddings() {
    const int64_t hidden = config_.hidden;
    if (config_.patches.has_value()) return AddPatches();
    WEFT_ASSIGN_OR_RETURN(const at::Tensor words,
                          weights_.Take(config_.word_embeddings + ".weight", {config_.vocabulary, hidden}));
    model_.word_embeddings_ = words.to(device_);
    if (!config_.position_embeddings.empty()) {
      WEFT_ASSIGN_OR_RETURN(const at::Tensor positions,
                            Get(config_.position_embeddings + ".weight", {config_.position_embedding_rows, hidden}));
      model_.position_embeddings_ = positions.slice(0, config_.first_position);
    }
    if (!config_.token_type_embeddings.empty()) {
      WEFT_ASSIGN_OR_RETURN(const at::Tensor types,
                            Get(config_.token_type_embeddings + ".weight", {config_.token_types, hidden}));
      model_.type_embedding_ = types[0];
    }
    if (!base_.tasks.contains("causal_lm")) {
      model_.lm_head_ = absl::InvalidArgumentError("the base is no language model");
    } else if (config_.lm_head.empty()) {
      model_.lm_head_ = model_.word_embeddings_;
    } else {
      // A checkpoint of the bare model has none, which matters to causal_lm alone.
      model_.lm_head_ = weights_.Take(config_.lm_head + ".weight", {config_.vocabulary, hidden});
    }
    return absl::OkStatus();
  }

  absl::Status AddPatches() {
    const Patches& patches = *config_.patches;
    const int64_t hidden = config_.hidden;
    WEFT_ASSIGN_OR_RETURN(const at::Tensor token, Get(patches.class_token, {1, 1, hidden}));
    model_.class_token_ = token.view({hidden});
    WEFT_ASSIGN_OR_RETURN(const at::Tensor positions,
                          Get(config_.position_embeddings, {1, config_.position_embedding_rows, hidden}));
    model_.position_embeddings_ = positions[0];
    WEFT_ASSIGN_OR_RETURN(const at::Tensor weight,
                          weights_.Take(patches.projection + ".weight",
                                        {hidden, patches.channels, patches.patch_size, patches.patch_size}));
    WEFT_ASSIGN_OR_RETURN(const at::Tensor bias, weights_.Take(patches.projection + ".bias", {hidden}));
    model_.patch_projection_.push_back(FrozenLinear({{.weight = weight.view({hidden, -1}), .bias = bias}}, device_));
    return absl::OkStatus();
  }

  static const std::string& StoredName(const std::string& stored, const std::string& name) {
    return stored.empty() ? name : stored;
  }

  absl::Status AddNorm(const NormModule& module) {
    const std::string& name = StoredName(module.stored, module.name);
    FrozenNorm norm{.weight = {}, .bias = {}, .epsilon = config_.norm_epsilon, .rms = config_.rms_norm};
    WEFT_ASSIGN_OR_RETURN(norm.weight, Get(name + ".weight", {module.width}));
    if (module.bias) {
      WEFT_ASSIGN_OR_RETURN(norm.bias, Get(name + ".bias", {module.width}));
    }
    model_.norms_.push_back(std::move(norm));
    return absl::OkStatus();
  }

  // Modules that read the same input, as one product. Returns its index.
  absl::StatusOr<int> AddGroup(const std::vector<int>& modules, std::vector<bool>& grouped) {
    std::vector<FrozenLinear::Part> parts;
    for (const int index : modules) {
      const LinearModule& module = base_.linears[index];
      const std::string& name = StoredName(module.stored, module.name);
      const int64_t out = module.out_features, in = module.in_features;
      FrozenLinear::Part part{.module = static_cast<size_t>(index), .weight = {}, .bias = {}};
      if (module.stored_transposed) {
        WEFT_ASSIGN_OR_RETURN(const at::Tensor weight, weights_.Take(name + ".weight", {in, out}));
        part.weight = weight.t();
      } else {
        WEFT_ASSIGN_OR_RETURN(part.weight, weights_.Take(name + ".weight", {out, in}));
      }
      if (module.bias) {
        WEFT_ASSIGN_OR_RETURN(part.bias, weights_.Take(name + ".bias", {out}));
      }
      parts.push_back(std::move(part));
      grouped[index] = true;
    }
    model_.linears_.emplace_back(std::move(parts), device_);
    return static_cast<int>(model_.linears_.size()) - 1;
  }

  absl::Status AddLayer(const TransformerLayer& from, bool last, std::vector<bool>& grouped) {
    Layer layer;
    if (from.query_key_value >= 0) {
      WEFT_ASSIGN_OR_RETURN(layer.query_key_value, AddGroup({from.query_key_value}, grouped));
    } else if (last) {  // whose queries are computed for fewer tokens
      WEFT_ASSIGN_OR_RETURN(layer.query, AddGroup({from.query}, grouped));
      WEFT_ASSIGN_OR_RETURN(layer.key_value, AddGroup({from.key, from.value}, grouped));
    } else {
      WEFT_ASSIGN_OR_RETURN(layer.query_key_value, AddGroup({from.query, from.key, from.value}, grouped));
    }
    WEFT_ASSIGN_OR_RETURN(layer.attention_output, AddGroup({from.attention_output}, grouped));
    const std::vector<int> up = from.gate >= 0 ? std::vector<int>{from.gate, from.up} : std::vector<int>{from.up};
    WEFT_ASSIGN_OR_RETURN(layer.up, AddGroup(up, grouped));
    WEFT_ASSIGN_OR_RETURN(layer.down, AddGroup({from.down}, grouped));
    layer.attention_norm = from.attention_norm;
    layer.feed_forward_norm = from.feed_forward_norm;
    layer.query_norm = from.query_norm;
    layer.key_norm = from.key_norm;
    model_.layers_.push_back(layer);
    return absl::OkStatus();
  }

  BaseWeights& weights_;
  const BaseDescription& base_;
  const Transformer& config_;
  const at::Device device_;
  TransformerModel& model_;
};

absl::StatusOr<std::unique_ptr<TransformerModel>> TransformerModel::Create(const BaseDescription& base,
                                                                           BaseWeights& weights, at::Device device) {
  std::unique_ptr<TransformerModel> model(new TransformerModel(base, device));
  WEFT_RETURN_IF_ERROR(Builder(weights, model.get()).Build());
  return model;
}

absl::StatusOr<at::Tensor> TransformerModel::LmHead(at::ScalarType dtype) const {
  if (!lm_head_.ok()) return lm_head_.status();
  const std::lock_guard<std::mutex> lock(mutex_);
  at::Tensor& head = lm_heads_[dtype];
  if (!head.defined()) head = lm_head_->to(device_, dtype);
  return head;
}

}  // namespace weft
