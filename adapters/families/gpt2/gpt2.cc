#include "adapters/families/gpt2/gpt2.h"

#include <utility>

#include "adapters/families/fields.h"
#include "adapters/families/transformer_names.h"
#include "common/status_macros.h"

namespace weft {
namespace {

constexpr TransformerKeys kKeys = {
    .hidden = "n_embd",
    .layers = "n_layer",
    .heads = "n_head",
    .intermediate = nullptr,  // "n_inner", below
    .positions = "n_positions",
    .norm_epsilon = "layer_norm_epsilon",
    .default_norm_epsilon = 1e-5,
    .activation = "activation_function",
    .default_activation = Activation::kGeluTanh,
};

constexpr TransformerNames kNames = {
    .prefix = "transformer.",
    .word_embeddings = "wte",
    .position_embeddings = "wpe",
    .query_key_value = "h.$.attn.c_attn",
    .attention_output = "h.$.attn.c_proj",
    .up = "h.$.mlp.c_fc",
    .down = "h.$.mlp.c_proj",
    .attention_norm = "h.$.ln_1",
    .feed_forward_norm = "h.$.ln_2",
    .final_norm = "ln_f",
    .ignored = {"score.", "classifier.", "multiple_choice_head.", "qa_outputs.", "transformer.h.$.attn.bias",
                "transformer.h.$.attn.masked_bias"},
};

}  // namespace

absl::StatusOr<BaseDescription> DescribeGpt2(nlohmann::json config) {
  WEFT_RETURN_IF_ERROR(RequireValue(config, "scale_attn_weights", true));
  WEFT_RETURN_IF_ERROR(RequireValue(config, "scale_attn_by_inverse_layer_idx", false));
  WEFT_RETURN_IF_ERROR(RequireValue(config, "add_cross_attention", false));
  WEFT_ASSIGN_OR_RETURN(Transformer transformer, ReadTransformer(config, kKeys));
  WEFT_ASSIGN_OR_RETURN(transformer.intermediate, ReadSizeOr(config, "n_inner", 4 * transformer.hidden));
  transformer.position_embedding_rows = transformer.max_positions;
  transformer.norm_first = true;
  transformer.causal = true;
  WEFT_ASSIGN_OR_RETURN(const bool tied, ReadFlag(config, "tie_word_embeddings", true));
  WEFT_ASSIGN_OR_RETURN(BaseDescription base, MakeTransformerBase("gpt2", std::move(config), std::move(transformer),
                                                                  kNames, /*stored=*/{}, {.stored_transposed = true}));
  SetLmHead("lm_head", tied, &base);
  base.tasks["sequence_classification"] = SequenceClassification(
      TaskDescription::Read::kLast, {{.name = "score", .in_features = base.hidden_size, .bias = false}});
  base.tasks["causal_lm"] = CausalLm();
  base.tasks["sentence_embedding"] = SentenceEmbedding();
  return base;
}

}  // namespace weft
