#include "adapters/families/roberta/roberta.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/families/fields.h"
#include "adapters/families/transformer_names.h"
#include "common/status_macros.h"

namespace weft {
namespace {

constexpr TransformerNames kNames = {
    .prefix = "roberta.",
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
    .ignored = {"lm_head.", "classifier.", "qa_outputs.", "roberta.pooler.", "roberta.embeddings.position_ids"},
};

// The first token's position follows the padding token's.
absl::Status ReadPositions(const nlohmann::json& config, Transformer* transformer) {
  int64_t padding = 1;
  if (config.contains("pad_token_id") && config["pad_token_id"] == 0) {
    padding = 0;
  } else if (config.contains("pad_token_id")) {
    WEFT_ASSIGN_OR_RETURN(padding, ReadSize(config, "pad_token_id"));
  }
  transformer->first_position = padding + 1;
  transformer->position_embedding_rows = transformer->max_positions;
  transformer->max_positions -= transformer->first_position;
  if (transformer->max_positions > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("config.json: \"max_position_embeddings\" ",
                                                 transformer->position_embedding_rows,
                                                 " leaves no position after \"pad_token_id\" ", padding));
}

}  // namespace

absl::StatusOr<BaseDescription> DescribeRoberta(nlohmann::json config) {
  WEFT_RETURN_IF_ERROR(RequireValue(config, "position_embedding_type", "absolute"));
  WEFT_RETURN_IF_ERROR(RequireValue(config, "is_decoder", false));
  WEFT_RETURN_IF_ERROR(RequireValue(config, "add_cross_attention", false));
  WEFT_ASSIGN_OR_RETURN(Transformer transformer, ReadTransformer(config, {}));
  WEFT_ASSIGN_OR_RETURN(transformer.token_types, ReadSize(config, "type_vocab_size"));
  WEFT_RETURN_IF_ERROR(ReadPositions(config, &transformer));
  WEFT_ASSIGN_OR_RETURN(BaseDescription base, MakeTransformerBase("roberta", std::move(config), std::move(transformer),
                                                                  kNames, /*stored=*/{}, /*choices=*/{}));
  const int64_t hidden = base.hidden_size;
  base.tasks["sequence_classification"] = SequenceClassification(
      TaskDescription::Read::kFirst,
      {{.name = "classifier.dense", .out_features = hidden, .in_features = hidden, .activation = Activation::kTanh},
       {.name = "classifier.out_proj", .in_features = hidden}});
  base.tasks["sentence_embedding"] = SentenceEmbedding();
  return base;
}

}  // namespace weft
