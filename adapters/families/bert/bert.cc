#include "adapters/families/bert/bert.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/families/fields.h"
#include "common/status_macros.h"

namespace weft {

absl::StatusOr<BaseDescription> DescribeBert(nlohmann::json config) {
  BaseDescription base;
  WEFT_ASSIGN_OR_RETURN(const int64_t hidden, ReadSize(config, "hidden_size"));
  WEFT_ASSIGN_OR_RETURN(const int64_t layers, ReadSize(config, "num_hidden_layers", kMostLayers));
  WEFT_ASSIGN_OR_RETURN(const int64_t heads, ReadSize(config, "num_attention_heads"));
  WEFT_ASSIGN_OR_RETURN(const int64_t inner, ReadSize(config, "intermediate_size"));
  for (const char* key : {"vocab_size", "max_position_embeddings", "type_vocab_size"}) {
    WEFT_RETURN_IF_ERROR(ReadSize(config, key).status());
  }
  WEFT_ASSIGN_OR_RETURN(base.initializer_range, ReadNumber(config, "initializer_range", 0.02));
  if (hidden % heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: \"hidden_size\" ", hidden, " is not a multiple of \"num_attention_heads\" ", heads));
  }
  for (int64_t i = 0; i < layers; ++i) {
    const std::string layer = absl::StrCat("bert.encoder.layer.", i, ".");
    for (const char* name :
         {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"}) {
      base.linears.push_back({.name = layer + name, .out_features = hidden, .in_features = hidden});
    }
    base.linears.push_back({.name = layer + "intermediate.dense", .out_features = inner, .in_features = hidden});
    base.linears.push_back({.name = layer + "output.dense", .out_features = hidden, .in_features = inner});
  }
  base.linears.push_back({.name = "bert.pooler.dense", .out_features = hidden, .in_features = hidden});
  base.model_type = "bert";
  base.hidden_size = hidden;
  base.head_name = "classifier";
  base.config = std::move(config);
  return base;
}

}  // namespace weft
