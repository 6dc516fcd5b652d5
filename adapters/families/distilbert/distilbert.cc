#include "adapters/families/distilbert/distilbert.h"

#include <utility>

#include "adapters/families/fields.h"
#include "adapters/families/transformer_names.h"
#include "common/status_macros.h"

namespace weft {
namespace {

constexpr TransformerKeys kKeys = {
    .hidden = "dim",
    .layers = "n_layers",
    .heads = "n_heads",
    .intermediate = "hidden_dim",
    .norm_epsilon = nullptr,  // always the default
    .activation = "activation",
};

constexpr TransformerNames kNames = {
    .prefix = "distilbert.",
    .word_embeddings = "embeddings.word_embeddings",
    .position_embeddings = "embeddings.position_embeddings",
    .embedding_norm = "embeddings.LayerNorm",
    .query = "transformer.layer.$.attention.q_lin",
    .key = "transformer.layer.$.attention.k_lin",
    .value = "transformer.layer.$.attention.v_lin",
    .attention_output = "transformer.layer.$.attention.out_lin",
    .up = "transformer.layer.$.ffn.lin1",
    .down = "transformer.layer.$.ffn.lin2",
    .attention_norm = "transformer.layer.$.sa_layer_norm",
    .feed_forward_norm = "transformer.layer.$.output_layer_norm",
    .ignored = {"vocab_transform.", "vocab_layer_norm.", "vocab_projector.", "pre_classifier.", "classifier.",
                "qa_outputs.", "distilbert.embeddings.position_ids"},
};

}  // namespace

absl::StatusOr<BaseDescription> DescribeDistilbert(nlohmann::json config) {
  WEFT_ASSIGN_OR_RETURN(Transformer transformer, ReadTransformer(config, kKeys));
  transformer.position_embedding_rows = transformer.max_positions;
  WEFT_ASSIGN_OR_RETURN(BaseDescription base,
                        MakeTransformerBase("distilbert", std::move(config), std::move(transformer), kNames,
                                            /*stored=*/{}, /*choices=*/{}));
  const int64_t hidden = base.hidden_size;
  base.tasks["sequence_classification"] = SequenceClassification(
      TaskDescription::Read::kFirst,
      {{.name = "pre_classifier", .out_features = hidden, .in_features = hidden, .activation = Activation::kRelu},
       {.name = "classifier", .in_features = hidden}});
  base.tasks["sentence_embedding"] = SentenceEmbedding();
  return base;
}

}  // namespace weft
