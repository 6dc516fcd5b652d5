#include "adapters/families/transformer_names.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "adapters/families/fields.h"
#include "common/status_macros.h"

namespace weft {
namespace {

// Adds modules to a base whose transformer has its sizes.
class Builder {
 public:
  Builder(const TransformerNames& names, const TransformerNames& stored, const LinearChoices& choices,
          BaseDescription* base)
      : names_(names), stored_(stored), choices_(choices), base_(*base), transformer_(*base->transformer) {}

  void AddAll() {
    transformer_.word_embeddings = FullName(names_.word_embeddings);
    transformer_.position_embeddings = FullName(names_.position_embeddings);
    transformer_.token_type_embeddings = FullName(names_.token_type_embeddings);
    if (transformer_.patches.has_value()) {
      transformer_.patches->projection = FullName(names_.patch_projection);
      transformer_.patches->class_token = FullName(names_.class_token);
    }
    transformer_.embedding_norm = AddNorm(&TransformerNames::embedding_norm, transformer_.hidden);
    for (layer_ = 0; layer_ < transformer_.layers.size(); ++layer_) AddLayer(&transformer_.layers[layer_]);
    transformer_.final_norm = AddNorm(&TransformerNames::final_norm, transformer_.hidden);
    AddLinear(&TransformerNames::pooler, transformer_.hidden, transformer_.hidden, {.bias = true, .transposed = false});
    for (const char* name : names_.ignored) {
      if (name != nullptr) AddIgnored(name);
    }
  }

 private:
  using Name = const char* TransformerNames::*;
  struct Choice {
    bool bias;
    bool transposed;
  };

  // "" where there is no such module.
  std::string FullName(const char* name) const {
    if (name == nullptr) return "";
    return absl::StrReplaceAll(absl::StrCat(names_.prefix, name), {{"$", absl::StrCat(layer_)}});
  }

  // Index of the new module; -1 where the family has none.
  int AddLinear(Name name, int64_t out_features, int64_t in_features, Choice choice) {
    if (names_.*name == nullptr) return -1;
    base_.linears.push_back({.name = FullName(names_.*name),
                             .out_features = out_features,
                             .in_features = in_features,
                             .bias = choice.bias,
                             .stored = FullName(stored_.*name),
                             .stored_transposed = choice.transposed});
    return static_cast<int>(base_.linears.size()) - 1;
  }
  int AddNorm(Name name, int64_t width) {
    if (names_.*name == nullptr) return -1;
    base_.norms.push_back({.name = FullName(names_.*name),
                           .width = width,
                           .bias = !transformer_.rms_norm,
                           .stored = FullName(stored_.*name)});
    return static_cast<int>(base_.norms.size()) - 1;
  }

  void AddLayer(TransformerLayer* layer) {
    const bool norm_first = transformer_.norm_first;
    const auto norm = [&](Name name) { return AddNorm(name, transformer_.hidden); };
    if (norm_first) layer->attention_norm = norm(&TransformerNames::attention_norm);
    AddAttention(layer);
    if (!norm_first) layer->attention_norm = norm(&TransformerNames::attention_norm);
    if (norm_first) layer->feed_forward_norm = norm(&TransformerNames::feed_forward_norm);
    AddFeedForward(layer);
    if (!norm_first) layer->feed_forward_norm = norm(&TransformerNames::feed_forward_norm);
  }

  void AddAttention(TransformerLayer* layer) {
    const int64_t hidden = transformer_.hidden;
    const int64_t queries = transformer_.heads * transformer_.head_dim;
    const int64_t keys = transformer_.key_heads * transformer_.head_dim;
    const Choice inner = {choices_.query_key_value_bias, choices_.stored_transposed};
    layer->query_key_value = AddLinear(&TransformerNames::query_key_value, queries + 2 * keys, hidden, inner);
    layer->query = AddLinear(&TransformerNames::query, queries, hidden, inner);
    layer->key = AddLinear(&TransformerNames::key, keys, hidden, inner);
    layer->value = AddLinear(&TransformerNames::value, keys, hidden, inner);
    layer->query_norm = AddNorm(&TransformerNames::query_norm, transformer_.head_dim);
    layer->key_norm = AddNorm(&TransformerNames::key_norm, transformer_.head_dim);
    layer->attention_output = AddLinear(&TransformerNames::attention_output, hidden, queries,
                                        {choices_.attention_output_bias, choices_.stored_transposed});
  }

  void AddFeedForward(TransformerLayer* layer) {
    const Choice choice = {choices_.feed_forward_bias, choices_.stored_transposed};
    layer->gate = AddLinear(&TransformerNames::gate, transformer_.intermediate, transformer_.hidden, choice);
    layer->up = AddLinear(&TransformerNames::up, transformer_.intermediate, transformer_.hidden, choice);
    layer->down = AddLinear(&TransformerNames::down, transformer_.hidden, transformer_.intermediate, choice);
  }

  void AddIgnored(const std::string& name) {
    const bool every_layer = name.find('$') != std::string::npos;
    for (size_t i = 0; i < (every_layer ? transformer_.layers.size() : 1); ++i) {
      transformer_.ignored.push_back(absl::StrReplaceAll(name, {{"$", absl::StrCat(i)}}));
    }
  }

  const TransformerNames& names_;
  const TransformerNames& stored_;
  const LinearChoices& choices_;
  BaseDescription& base_;
  Transformer& transformer_;
  size_t layer_ = 0;
};

absl::Status ReadHeads(const nlohmann::json& config, const TransformerKeys& keys, Transformer* transformer) {
  WEFT_ASSIGN_OR_RETURN(transformer->heads, ReadSize(config, keys.heads));
  transformer->key_heads = transformer->heads;
  if (keys.key_heads != nullptr) {
    // Absent is the family's default, null means as many as heads.
    const bool absent = !config.contains(keys.key_heads) && keys.default_key_heads > 0;
    WEFT_ASSIGN_OR_RETURN(transformer->key_heads,
                          ReadSizeOr(config, keys.key_heads, absent ? keys.default_key_heads : transformer->heads));
  }
  if (transformer->heads % transformer->key_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: \"", keys.heads, "\" ", transformer->heads,
                                                   " is not a multiple of \"", keys.key_heads, "\" ",
                                                   transformer->key_heads));
  }
  if (keys.head_dim != nullptr) {
    WEFT_ASSIGN_OR_RETURN(transformer->head_dim, ReadSizeOr(config, keys.head_dim, keys.default_head_dim));
  }
  if (transformer->head_dim == 0) {
    if (transformer->hidden % transformer->heads != 0) {
      return absl::InvalidArgumentError(absl::StrCat("config.json: \"", keys.hidden, "\" ", transformer->hidden,
                                                     " is not a multiple of \"", keys.heads, "\" ",
                                                     transformer->heads));
    }
    transformer->head_dim = transformer->hidden / transformer->heads;
  }
  if (transformer->heads > kLargestSize / transformer->head_dim) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: \"", keys.heads, "\" ", transformer->heads, " of ",
                                                   transformer->head_dim, " each are over ", kLargestSize));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Transformer> ReadTransformer(const nlohmann::json& config, const TransformerKeys& keys) {
  WEFT_RETURN_IF_ERROR(RequireValue(config, "quantization_config", nullptr));
  Transformer transformer;
  WEFT_ASSIGN_OR_RETURN(transformer.hidden, ReadSize(config, keys.hidden));
  WEFT_ASSIGN_OR_RETURN(const int64_t layers, ReadSize(config, keys.layers, kMostLayers));
  transformer.layers.resize(layers);
  WEFT_RETURN_IF_ERROR(ReadHeads(config, keys, &transformer));
  transformer.intermediate = 4 * transformer.hidden;
  if (keys.intermediate != nullptr) {
    WEFT_ASSIGN_OR_RETURN(transformer.intermediate, ReadSize(config, keys.intermediate));
  }
  if (keys.vocabulary != nullptr) {
    WEFT_ASSIGN_OR_RETURN(transformer.vocabulary, ReadSize(config, keys.vocabulary));
    WEFT_ASSIGN_OR_RETURN(transformer.max_positions, ReadSize(config, keys.positions));
  }
  transformer.norm_epsilon = keys.default_norm_epsilon;
  if (keys.norm_epsilon != nullptr) {
    WEFT_ASSIGN_OR_RETURN(transformer.norm_epsilon, ReadNumber(config, keys.norm_epsilon, keys.default_norm_epsilon));
  }
  WEFT_ASSIGN_OR_RETURN(transformer.activation, ReadActivation(config, keys.activation, keys.default_activation));
  return transformer;
}

absl::StatusOr<BaseDescription> MakeTransformerBase(const char* model_type, nlohmann::json config,
                                                    Transformer transformer, const TransformerNames& names,
                                                    const TransformerNames& stored, const LinearChoices& choices) {
  BaseDescription base;
  WEFT_ASSIGN_OR_RETURN(base.initializer_range, ReadNumber(config, "initializer_range", 0.02));
  base.model_type = model_type;
  base.config = std::move(config);
  base.hidden_size = transformer.hidden;
  base.prefix = names.prefix;
  base.transformer = std::move(transformer);
  Builder(names, stored, choices, &base).AddAll();
  return base;
}

void SetLmHead(const char* name, bool tied, BaseDescription* base) {
  if (tied) {
    base->transformer->ignored.push_back(absl::StrCat(name, "."));
  } else {
    base->transformer->lm_head = name;
  }
}

TaskDescription SequenceClassification(TaskDescription::Read read, std::vector<HeadModule> head) {
  return {.read = read, .head = std::move(head), .peft_task_type = "SEQ_CLS"};
}

TaskDescription CausalLm() { return {.read = TaskDescription::Read::kEach, .head = {}, .peft_task_type = "CAUSAL_LM"}; }

TaskDescription SentenceEmbedding() {
  return {.read = TaskDescription::Read::kMean, .head = {}, .peft_task_type = "FEATURE_EXTRACTION", .prefixed = false};
}

}  // namespace weft
