#include "training/models/transformer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_copy.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "training/models/checkpoint.h"
#include "training/ops/activation.h"

namespace weft {

struct TransformerModel::Work {
  const Batch& batch;
  const std::vector<FrozenLinear>& linears;
  Pass& pass;
  KeyValueCache* cache = nullptr;
};

absl::Status TransformerModel::CheckShard(const DataShard& shard, const std::string& task) const {
  const RowKind kind = task == "image_classification" ? RowKind::kImages
                       : task == "causal_lm"          ? RowKind::kLearn
                       : task == "sentence_embedding" ? RowKind::kPairs
                                                      : RowKind::kText;
  std::string expected;
  if (kind == RowKind::kImages) {
    const int64_t size = config_.patches->image_size, channels = config_.patches->channels;
    if (shard.channels() == channels && shard.height() == size && shard.width_pixels() == size) return absl::OkStatus();
    expected = absl::StrCat("images of ", channels, " x ", size, " x ", size);
  } else {
    if (shard.kind() == kind) return absl::OkStatus();
    expected = kind == RowKind::kLearn   ? "rows of tokens to learn"
               : kind == RowKind::kPairs ? "pairs of texts"
                                         : "rows of tokens with a label";
  }
  return absl::InvalidArgumentError(
      absl::StrCat(shard.Describe(), ", the base reads ", expected, " for ", task,
                   "; use data that `weft prepare` made with the base's tokenizer for this task"));
}

absl::StatusOr<Batch> TransformerModel::MakeBatch(std::span<const MemberRows> members, const BatchOptions& options,
                                                  int64_t* member) const {
  return config_.patches.has_value() ? MakeImageBatch(members, options, config_, device_, member)
                                     : MakeTextBatch(members, options, config_, device_, member);
}

int64_t TransformerModel::BytesPerToken(at::ScalarType dtype, bool checkpointing) const {
  // What a layer keeps: its input and sums, queries, keys and values, what attention gives, both sides of the
  // activation.
  const int64_t heads = (config_.heads + 2 * config_.key_heads) * config_.head_dim;
  const bool gated = layers_.front().up >= 0 && linears_[layers_.front().up].parts().size() > 1;
  const int64_t layer =
      5 * config_.hidden + heads + config_.heads * config_.head_dim + (gated ? 3 : 2) * config_.intermediate;
  const auto layers = static_cast<int64_t>(layers_.size());
  const int64_t elements = checkpointing ? layers * 2 * config_.hidden + 2 * layer : (layers + 1) * layer;
  return elements * static_cast<int64_t>(c10::elementSize(dtype));
}

at::Tensor TransformerModel::Forward(const Batch& batch, const std::vector<FrozenLinear>& linears, Pass& pass) const {
  Work work{.batch = batch, .linears = linears, .pass = pass};
  const at::Tensor x = Embed(batch, pass);
  Stream stream{.sum = x, .normed = x};
  if (config_.norm_first) stream.normed = Normed(layers_.front().attention_norm, x, batch.tokens, work);
  for (size_t i = 0; i < layers_.size(); ++i) {
    // Below the first adapter nothing is recorded, so nothing has to be computed again.
    const bool recorded = stream.sum.requires_grad() || IsAdapted(layers_[i], work);
    stream = pass.checkpointing() && recorded ? RunCheckpointed(i, stream, work) : RunLayer(i, stream, work);
  }
  return stream.normed;
}

at::Tensor TransformerModel::Continue(const Batch& batch, const std::vector<FrozenLinear>& linears, Pass& pass,
                                      KeyValueCache* cache) const {
  Work work{.batch = batch, .linears = linears, .pass = pass, .cache = cache};
  Batch later = batch;
  later.positions = batch.positions + cache->length;
  const at::Tensor x = Embed(later, pass);
  Stream stream{.sum = x, .normed = x};
  if (config_.norm_first) stream.normed = Normed(layers_.front().attention_norm, x, batch.tokens, work);
  for (size_t i = 0; i < layers_.size(); ++i) stream = RunLayer(i, stream, work);
  cache->length += batch.tokens.end(0);
  return stream.normed;
}

KeyValueCache TransformerModel::MakeCache(int64_t places, at::ScalarType dtype) const {
  KeyValueCache cache;
  for (size_t i = 0; i < layers_.size(); ++i) {
    cache.layers.push_back(
        at::empty({places, 2 * config_.key_heads * config_.head_dim}, at::TensorOptions(dtype).device(device_)));
  }
  return cache;
}

at::Tensor TransformerModel::Embed(const Batch& batch, Pass& pass) const {
  Work work{.batch = batch, .linears = linears_, .pass = pass};
  at::Tensor x;
  if (config_.patches.has_value()) {
    x = EmbedPatches(batch, pass);
  } else {
    x = at::index_select(word_embeddings_, 0, batch.ids).to(at::kFloat);
    x = PutPrompt(x, 0, work);
    if (type_embedding_.defined()) x = x + type_embedding_;
    if (position_embeddings_.defined()) x = x + at::index_select(position_embeddings_, 0, batch.positions);
  }
  x = x.to(pass.dtype());
  return config_.embedding_norm < 0 ? x : Normed(config_.embedding_norm, x, batch.tokens, work);
}

at::Tensor TransformerModel::EmbedPatches(const Batch& batch, Pass& pass) const {
  const Patches& patches = *config_.patches;
  const int64_t rows = batch.pixels.size(0), side = patches.image_size / patches.patch_size, count = patches.count();
  // [rows, channels, side, patch, side, patch] -> [rows * patches, channels * patch * patch], as the projection's
  // weight.
  const at::Tensor flat =
      batch.pixels.view({rows, patches.channels, side, patches.patch_size, side, patches.patch_size})
          .permute({0, 2, 4, 1, 3, 5})
          .reshape({rows * count, -1});
  Segments segments;
  for (int64_t k = 0; k < batch.rows.members(); ++k) segments.offsets.push_back(batch.rows.end(k) * count);
  at::Tensor tokens = patch_projection_.front().Product(flat.to(pass.dtype()));
  if (pass.form().patch_output != nullptr) tokens = pass.form().patch_output->Forward(tokens, segments);
  tokens = tokens.to(at::kFloat).view({rows, count, config_.hidden});
  tokens = tokens + position_embeddings_.slice(0, 1);
  const at::Tensor first = (class_token_ + position_embeddings_[0]).expand({rows, 1, config_.hidden});
  const int64_t prompt = batch.prompt_places.defined() ? batch.prompt_places.size(0) / rows : 0;
  const at::Tensor room = at::zeros({rows, prompt, config_.hidden}, first.options());
  at::Tensor x = at::cat({first, room, tokens}, 1).view({-1, config_.hidden});
  const int64_t fill = batch.ids.size(0) - x.size(0);
  if (fill > 0) x = at::cat({x, at::zeros({fill, config_.hidden}, x.options())});
  Work work{.batch = batch, .linears = linears_, .pass = pass};
  return PutPrompt(x, 0, work);
}

at::Tensor TransformerModel::PutPrompt(const at::Tensor& x, int64_t layer, const Work& work) const {
  if (!work.batch.prompt_places.defined()) return x;
  const PromptAdapter& prompt = *work.pass.form().prompt;
  std::vector<at::Tensor> tokens;
  for (int64_t k = 0; k < work.batch.rows.members(); ++k) {
    const int64_t rows = work.batch.rows.end(k) - work.batch.rows.begin(k);
    if (rows > 0) tokens.push_back(prompt.Prompt(layer, k, work.pass.random()).repeat({rows, 1}));
  }
  return at::index_copy(x, 0, work.batch.prompt_places, at::cat(tokens).to(x.scalar_type()));
}

TransformerModel::Stream TransformerModel::RunLayer(size_t index, const Stream& in, Work& work) const {
  const Layer& layer = layers_[index];
  const Batch& batch = work.batch;
  Stream stream = in;
  if (index > 0 && batch.prompt_places.defined() && work.pass.form().prompt->replaces(static_cast<int64_t>(index))) {
    stream.sum = PutPrompt(in.sum, static_cast<int64_t>(index), work);
    stream.normed = config_.norm_first ? Normed(layer.attention_norm, stream.sum, batch.tokens, work) : stream.sum;
  }
  const bool read_only = index + 1 == layers_.size() && batch.read_places.defined() && work.cache == nullptr;
  const Segments& segments = read_only ? batch.read : batch.tokens;
  const at::Tensor mixed =
      work.cache != nullptr ? AttendCached(index, stream.normed, work) : Attend(index, stream.normed, read_only, work);
  const at::Tensor kept = read_only ? stream.sum.index_select(0, batch.read_places) : stream.sum;
  const Stream attended = AddAndNorm(config_.norm_first ? layer.feed_forward_norm : layer.attention_norm,
                                     Run(layer.attention_output, mixed, segments, work), kept, segments, work);
  const at::Tensor up = Run(layer.up, attended.normed, segments, work);
  const bool gated = work.linears[layer.up].parts().size() > 1;
  const at::Tensor inner = gated ? ActivateGated(up, config_.activation) : Activate(up, config_.activation);
  return AddAndNorm(config_.norm_first ? NormAfter(index) : layer.feed_forward_norm,
                    Run(layer.down, inner, segments, work), attended.sum, segments, work);
}

TransformerModel::Stream TransformerModel::RunCheckpointed(size_t index, const Stream& in, Work& work) const {
  const TensorPair out = Checkpoint(
      [this, index, work](const TensorPair& x) mutable {  // a copy: it goes on living until the way back
        const Stream stream = RunLayer(index, {.sum = x[0], .normed = x[1]}, work);
        return TensorPair{stream.sum, stream.normed};
      },
      {in.sum, in.normed});
  return {.sum = out[0], .normed = out[1]};
}

bool TransformerModel::IsAdapted(const Layer& layer, const Work& work) const {
  const AttachedForm& form = work.pass.form();
  if (form.prompt != nullptr) return true;
  for (const int linear :
       {layer.query_key_value, layer.query, layer.key_value, layer.attention_output, layer.up, layer.down}) {
    if (linear < 0) continue;
    for (const FrozenLinear::Part& part : work.linears[linear].parts()) {
      if (form.linears[part.module] != nullptr || form.linear_outputs[part.module] != nullptr) return true;
    }
  }
  for (const int norm : {layer.attention_norm, layer.feed_forward_norm}) {
    if (form.norm_outputs[norm] != nullptr) return true;
  }
  return false;
}

at::Tensor TransformerModel::Attend(size_t index, const at::Tensor& x, bool read_only, Work& work) const {
  const Layer& layer = layers_[index];
  const Batch& batch = work.batch;
  const int64_t query_columns = config_.heads * config_.head_dim;
  const AttentionRows& rows = read_only ? batch.read_attention : batch.attention;
  if (layer.query_key_value >= 0) {
    const at::Tensor packed = NormaliseQueriesAndKeys(layer, Run(layer.query_key_value, x, batch.tokens, work));
    if (!read_only) return SelfAttention(packed, rows, attention_, rotary_);
    return PartialAttention(packed.slice(1, 0, query_columns).index_select(0, batch.read_places),
                            packed.slice(1, query_columns), rows, attention_, rotary_);
  }
  at::Tensor query = read_only ? Run(layer.query, x.index_select(0, batch.read_places), batch.read, work)
                               : Run(layer.query, x, batch.tokens, work);
  at::Tensor key_value = Run(layer.key_value, x, batch.tokens, work);
  if (layer.query_norm >= 0) {
    query = NormaliseHeads(query, config_.heads, norms_[layer.query_norm], 0, norms_[layer.key_norm]);
    key_value = NormaliseHeads(key_value, config_.key_heads, norms_[layer.key_norm], 0, norms_[layer.key_norm]);
  }
  return PartialAttention(query, key_value, rows, attention_, rotary_);
}

at::Tensor TransformerModel::AttendCached(size_t index, const at::Tensor& x, Work& work) const {
  const Layer& layer = layers_[index];
  const Segments& segments = work.batch.tokens;
  const int64_t columns = config_.heads * config_.head_dim, tokens = segments.end(0), before = work.cache->length;
  at::Tensor packed = layer.query_key_value >= 0
                          ? Run(layer.query_key_value, x, segments, work)
                          : at::cat({Run(layer.query, x, segments, work), Run(layer.key_value, x, segments, work)}, 1);
  packed = NormaliseQueriesAndKeys(layer, packed);
  at::Tensor cached = work.cache->layers[index];
  cached.slice(0, before, before + tokens).copy_(packed.slice(0, 0, tokens).slice(1, columns));
  AttentionRows rows;
  rows.query_offsets = at::empty({2}, at::TensorOptions(at::kLong));
  rows.key_offsets = at::empty({2}, at::TensorOptions(at::kLong));
  rows.query_offsets.mutable_data_ptr<int64_t>()[0] = rows.key_offsets.mutable_data_ptr<int64_t>()[0] = 0;
  rows.query_offsets.mutable_data_ptr<int64_t>()[1] = tokens;
  rows.key_offsets.mutable_data_ptr<int64_t>()[1] = before + tokens;
  rows.query_positions = at::empty({tokens}, at::TensorOptions(at::kLong));
  for (int64_t i = 0; i < tokens; ++i) rows.query_positions.mutable_data_ptr<int64_t>()[i] = before + i;
  return PartialAttention(packed.slice(1, 0, columns).contiguous(), cached.slice(0, 0, before + tokens), rows,
                          attention_, rotary_);
}

at::Tensor TransformerModel::NormaliseQueriesAndKeys(const Layer& layer, const at::Tensor& packed) const {
  if (layer.query_norm < 0) return packed;
  return NormaliseHeads(packed, config_.heads, norms_[layer.query_norm], config_.key_heads, norms_[layer.key_norm]);
}

at::Tensor TransformerModel::Run(int linear, const at::Tensor& x, const Segments& segments, Work& work) const {
  return work.pass.Linear(work.linears[linear], x, segments);
}

at::Tensor TransformerModel::Normed(int norm, const at::Tensor& x, const Segments& segments, Work& work) const {
  return work.pass.NormOutput(norm, Normalise(x, norms_[norm]), segments);
}

TransformerModel::Stream TransformerModel::AddAndNorm(int norm, const at::Tensor& x, const at::Tensor& residual,
                                                      const Segments& segments, Work& work) const {
  auto [sum, normed] = AddAndNormalise(x, residual, norms_[norm]);
  normed = work.pass.NormOutput(norm, normed, segments);
  // With norms after, what goes on is the norm alone.
  return config_.norm_first ? Stream{.sum = sum, .normed = normed} : Stream{.sum = normed, .normed = normed};
}

int TransformerModel::NormAfter(size_t layer) const {
  return layer + 1 < layers_.size() ? layers_[layer + 1].attention_norm : config_.final_norm;
}

}  // namespace weft
