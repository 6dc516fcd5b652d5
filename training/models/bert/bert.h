#ifndef WEFT_TRAINING_MODELS_BERT_BERT_H_
#define WEFT_TRAINING_MODELS_BERT_BERT_H_

#include "training/models/family.h"

namespace weft {

// BERT (Devlin et al., arXiv 1810.04805): learned positions, norm after each part, gelu, pooler on [CLS]. MiniLM has
// the same shape.
inline constexpr Family kBert = {
    .model_type = "bert",
    .keys = {.hidden = "hidden_size",
             .layers = "num_hidden_layers",
             .heads = "num_attention_heads",
             .intermediate = "intermediate_size",
             .vocabulary = "vocab_size",
             .max_positions = "max_position_embeddings",
             .token_types = "type_vocab_size",
             .norm_epsilon = "layer_norm_eps",
             .activation = "hidden_act"},
    .modules = {.prefix = "bert.",
                .word_embeddings = "embeddings.word_embeddings",
                .position_embeddings = "embeddings.position_embeddings",
                .token_type_embeddings = "embeddings.token_type_embeddings",
                .embedding_norm = "embeddings.LayerNorm",
                .query = "encoder.layer.$.attention.self.query",
                .key = "encoder.layer.$.attention.self.key",
                .value = "encoder.layer.$.attention.self.value",
                .attention_output = "encoder.layer.$.attention.output.dense",
                .attention_norm = "encoder.layer.$.attention.output.LayerNorm",
                .intermediate = "encoder.layer.$.intermediate.dense",
                .output = "encoder.layer.$.output.dense",
                .output_norm = "encoder.layer.$.output.LayerNorm",
                .pooler = "pooler.dense"},
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_BERT_BERT_H_
