#ifndef WEFT_TRAINING_MODELS_FAMILY_H_
#define WEFT_TRAINING_MODELS_FAMILY_H_

// What tells one family of encoders from another, as data. There is one encoder (encoder.h); a family is a table.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace weft {

// Sizes of one encoder, from its config.json.
struct EncoderConfig {
  int64_t hidden = 0;  // width of a token
  int64_t layers = 0;
  int64_t heads = 0;         // hidden is a multiple of it
  int64_t intermediate = 0;  // width inside the feed-forward part
  int64_t vocabulary = 0;
  int64_t max_positions = 0;  // longest row, in tokens
  int64_t token_types = 0;
  double norm_epsilon = 0;
};

// Keys of config.json.
struct EncoderConfigKeys {
  const char* hidden;
  const char* layers;
  const char* heads;
  const char* intermediate;
  const char* vocabulary;
  const char* max_positions;
  const char* token_types;
  const char* norm_epsilon;
  const char* activation;
};

// Modules as transformers names them in the task model; tensors are "<module>.weight" and "<module>.bias". `$` stands
// for the layer number.
struct EncoderModuleNames {
  const char* prefix;  // before all of them in a task checkpoint; checkpoints of the bare encoder lack it
  const char* word_embeddings;
  const char* position_embeddings;
  const char* token_type_embeddings;
  const char* embedding_norm;
  const char* query;
  const char* key;
  const char* value;
  const char* attention_output;
  const char* attention_norm;
  const char* intermediate;
  const char* output;
  const char* output_norm;
  const char* pooler;  // dense layer with tanh on the first token
};

struct Family {
  const char* model_type;  // of config.json
  EncoderConfigKeys keys;
  EncoderModuleNames modules;
};

// INVALID_ARGUMENT (lists the known ones) for a model_type without a family.
absl::StatusOr<const Family*> FindFamily(const std::string& model_type);

// INVALID_ARGUMENT naming the key: missing, not positive, heads that do not divide hidden, an activation other than
// "gelu".
absl::StatusOr<EncoderConfig> ReadEncoderConfig(const Family& family, const nlohmann::json& config);

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_FAMILY_H_
