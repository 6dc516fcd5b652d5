#include "adapters/families/decoder.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/families/fields.h"
#include "adapters/families/rotary.h"
#include "adapters/families/transformer_names.h"
#include "common/status_macros.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr int64_t kDefaultWindow = 4096;
constexpr int64_t kDefaultFullLayers = 28;

constexpr TransformerNames kNames = {
    .prefix = "model.",
    .word_embeddings = "embed_tokens",
    .query = "layers.$.self_attn.q_proj",
    .key = "layers.$.self_attn.k_proj",
    .value = "layers.$.self_attn.v_proj",
    .attention_output = "layers.$.self_attn.o_proj",
    .gate = "layers.$.mlp.gate_proj",
    .up = "layers.$.mlp.up_proj",
    .down = "layers.$.mlp.down_proj",
    .attention_norm = "layers.$.input_layernorm",
    .feed_forward_norm = "layers.$.post_attention_layernorm",
    .final_norm = "norm",
    .ignored = {"score.", "qa_outputs.", "model.rotary_emb.inv_freq", "model.layers.$.self_attn.rotary_emb.inv_freq"},
};

constexpr TransformerNames WithHeadNorms() {
  TransformerNames names = kNames;
  names.query_norm = "layers.$.self_attn.q_norm";
  names.key_norm = "layers.$.self_attn.k_norm";
  return names;
}
constexpr TransformerNames kNamesWithHeadNorms = WithHeadNorms();

// How many layers see a window only.
absl::StatusOr<int64_t> CountWindowed(const Json& config, int64_t layers, bool has_window) {
  if (!HasValue(config, "layer_types")) {
    if (!has_window) return 0;
    // Zero is well here.
    if (config.value("max_window_layers", Json()) == 0) return layers;
    WEFT_ASSIGN_OR_RETURN(const int64_t full, ReadSizeOr(config, "max_window_layers", kDefaultFullLayers));
    return full < layers ? layers - full : 0;
  }
  const Json& types = *config.find("layer_types");
  int64_t windowed = 0, full = 0;
  if (types.is_array()) {
    for (const Json& type : types) {
      windowed += type == "sliding_attention";
      full += type == "full_attention";
    }
  }
  if (windowed + full == layers && types.size() == static_cast<size_t>(layers)) return windowed;
  return absl::InvalidArgumentError(absl::StrCat("config.json: \"layer_types\" must list ", layers,
                                                 " times full_attention or sliding_attention, found ", Shown(types)));
}

// 0: a token sees all before it.
absl::StatusOr<int64_t> ReadWindow(const Json& config, DecoderFamily::Window kind, const Transformer& transformer) {
  if (kind == DecoderFamily::Window::kNone) return 0;
  bool used = true;
  if (kind == DecoderFamily::Window::kByLayer) {
    WEFT_ASSIGN_OR_RETURN(used, ReadFlag(config, "use_sliding_window", false));
  }
  int64_t window = 0;
  if (used && !config.contains("sliding_window")) {
    window = kDefaultWindow;
  } else if (used) {
    WEFT_ASSIGN_OR_RETURN(window, ReadSizeOr(config, "sliding_window", 0));
  }
  const auto layers = static_cast<int64_t>(transformer.layers.size());
  int64_t windowed = window > 0 ? layers : 0;
  if (kind == DecoderFamily::Window::kByLayer) {
    WEFT_ASSIGN_OR_RETURN(windowed, CountWindowed(config, layers, window > 0));
  }
  if (windowed == 0) return 0;
  if (window == 0) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: \"layer_types\" has ", windowed,
                                                   " with sliding_attention, but there is no \"sliding_window\""));
  }
  if (window >= transformer.max_positions) return 0;  // never less than a row
  if (windowed == layers) return window;
  return absl::InvalidArgumentError(absl::StrCat("config.json: \"sliding_window\" ", window, " is for ", windowed,
                                                 " of ", layers,
                                                 " layers (\"layer_types\", \"max_window_layers\"); the network takes "
                                                 "one window for all layers or none"));
}

absl::StatusOr<Transformer> ReadDecoder(const DecoderFamily& family, const Json& config) {
  const TransformerKeys keys = {.key_heads = "num_key_value_heads",
                                .default_key_heads = family.default_key_heads,
                                .head_dim = "head_dim",
                                .default_head_dim = family.default_head_dim,
                                .norm_epsilon = "rms_norm_eps",
                                .default_norm_epsilon = 1e-6,
                                .default_activation = Activation::kSilu};
  WEFT_ASSIGN_OR_RETURN(Transformer transformer, ReadTransformer(config, keys));
  transformer.norm_first = true;
  transformer.rms_norm = true;
  transformer.causal = true;
  WEFT_ASSIGN_OR_RETURN(transformer.rotary, ReadRotary(config, transformer.head_dim, transformer.max_positions));
  WEFT_ASSIGN_OR_RETURN(transformer.sliding_window, ReadWindow(config, family.window, transformer));
  return transformer;
}

}  // namespace

absl::StatusOr<BaseDescription> DescribeDecoder(const DecoderFamily& family, Json config) {
  WEFT_RETURN_IF_ERROR(RequireValue(config, "pretraining_tp", 1));
  WEFT_ASSIGN_OR_RETURN(Transformer transformer, ReadDecoder(family, config));
  WEFT_ASSIGN_OR_RETURN(const bool tied, ReadFlag(config, "tie_word_embeddings", false));
  LinearChoices choices = {
      .query_key_value_bias = family.query_key_value_bias, .attention_output_bias = false, .feed_forward_bias = false};
  if (family.reads_attention_bias) {
    WEFT_ASSIGN_OR_RETURN(choices.attention_output_bias, ReadFlag(config, "attention_bias", false));
    choices.query_key_value_bias = choices.attention_output_bias;
  }
  if (family.reads_mlp_bias) {
    WEFT_ASSIGN_OR_RETURN(choices.feed_forward_bias, ReadFlag(config, "mlp_bias", false));
  }
  WEFT_ASSIGN_OR_RETURN(BaseDescription base,
                        MakeTransformerBase(family.model_type, std::move(config), std::move(transformer),
                                            family.head_norms ? kNamesWithHeadNorms : kNames, {}, choices));
  SetLmHead("lm_head", tied, &base);
  base.tasks["sequence_classification"] = SequenceClassification(
      TaskDescription::Read::kLast, {{.name = "score", .in_features = base.hidden_size, .bias = false}});
  base.tasks["causal_lm"] = CausalLm();
  base.tasks["sentence_embedding"] = SentenceEmbedding();
  return base;
}

}  // namespace weft
