#include "adapters/families/bert/bert.h"

#include <utility>

#include "adapters/families/fields.h"
#include "adapters/families/transformer_names.h"
#include "common/status_macros.h"

namespace weft {
namespace {

constexpr TransformerNames kNames = {
    .prefix = "bert.",
    .word_embeddings = "embeddings.word_embeddings",
    .position_embeddings = "embeddings.position_embeddings",
    .token_type_embeddings = "embeddings.token_type_embeddings",
    .embedding_norm = "embeddings.LayerNorm",
    .query = "encoder.layer.$.attention.self.query",
    .key = "encoder.layer.$.attention.self.key",
    .value = "encoder.layer.$.attention.self.value",
    .attention_output = "encoder.layer.$.attention.output.dense",
    .up = "encoder.layer.$.intermediate.dense",
    .down = "encoder.layer.$.output.dense",
    .attention_norm = "encoder.layer.$.attention.output.LayerNorm",
    .feed_forward_norm = "encoder.layer.$.output.LayerNorm",
    .pooler = "pooler.dense",
    .ignored = {"cls.", "classifier.", "qa_outputs.", "bert.embeddings.position_ids"},
};

}  // namespace

absl::StatusOr<BaseDescription> DescribeBert(nlohmann::json config) {
  WEFT_RETURN_IF_ERROR(RequireValue(config, "position_embedding_type", "absolute"));
  WEFT_RETURN_IF_ERROR(RequireValue(config, "is_decoder", false));
  WEFT_RETURN_IF_ERROR(RequireValue(config, "add_cross_attention", false));
  WEFT_ASSIGN_OR_RETURN(Transformer transformer, ReadTransformer(config, {}));
  WEFT_ASSIGN_OR_RETURN(transformer.token_types, ReadSize(config, "type_vocab_size"));
  transformer.position_embedding_rows = transformer.max_positions;
  WEFT_ASSIGN_OR_RETURN(BaseDescription base, MakeTransformerBase("bert", std::move(config), std::move(transformer),
                                                                  kNames, /*stored=*/{}, /*choices=*/{}));
  TaskDescription classification =
      SequenceClassification(TaskDescription::Read::kFirst, {{.name = "classifier", .in_features = base.hidden_size}});
  classification.pooler = static_cast<int>(base.linears.size()) - 1;
  base.tasks["sequence_classification"] = std::move(classification);
  base.tasks["sentence_embedding"] = SentenceEmbedding();
  return base;
}

}  // namespace weft
