#ifndef WEFT_ADAPTERS_FAMILIES_TRANSFORMER_NAMES_H_
#define WEFT_ADAPTERS_FAMILIES_TRANSFORMER_NAMES_H_

// What the families of transformers share: a family is one table of keys, one of names, and what it alone has.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "adapters/transformer.h"
#include "nlohmann/json.hpp"

namespace weft {

// Keys of config.json, and values where a config may lack them. Null: the family has no such key.
struct TransformerKeys {
  const char* hidden = "hidden_size";
  const char* layers = "num_hidden_layers";
  const char* heads = "num_attention_heads";
  const char* key_heads = nullptr;
  int64_t default_key_heads = 0;  // 0: as many as heads
  const char* head_dim = nullptr;
  int64_t default_head_dim = 0;                    // 0: hidden / heads
  const char* intermediate = "intermediate_size";  // null: four times hidden
  const char* vocabulary = "vocab_size";           // null: images
  const char* positions = "max_position_embeddings";
  const char* norm_epsilon = "layer_norm_eps";
  double default_norm_epsilon = 1e-12;
  const char* activation = "hidden_act";
  Activation default_activation = Activation::kGelu;
};

// Names below the prefix, "$" for the number of the layer. Null: the family has no such module.
struct TransformerNames {
  const char* prefix = "";
  const char* word_embeddings = nullptr;
  const char* position_embeddings = nullptr;
  const char* token_type_embeddings = nullptr;
  const char* patch_projection = nullptr;
  const char* class_token = nullptr;
  const char* embedding_norm = nullptr;
  const char* query_key_value = nullptr;
  const char* query = nullptr;
  const char* key = nullptr;
  const char* value = nullptr;
  const char* attention_output = nullptr;
  const char* gate = nullptr;
  const char* up = nullptr;
  const char* down = nullptr;
  const char* attention_norm = nullptr;
  const char* feed_forward_norm = nullptr;
  const char* query_norm = nullptr;
  const char* key_norm = nullptr;
  const char* final_norm = nullptr;
  const char* pooler = nullptr;
  // Transformer::ignored, as in a task checkpoint, with the prefix where they have it.
  const char* ignored[12] = {};
};

// Choices of a family's linear modules.
struct LinearChoices {
  bool query_key_value_bias = true;
  bool attention_output_bias = true;
  bool feed_forward_bias = true;
  bool stored_transposed = false;  // all of them, the pooler not
};

// Sizes and choices under these keys; as many layers as the config says, nothing in them yet. INVALID_ARGUMENT naming
// the key: missing or bad size, heads that do not divide, quantized weights.
absl::StatusOr<Transformer> ReadTransformer(const nlohmann::json& config, const TransformerKeys& keys);

// All of a base but its tasks, with linears, norms and names filled in. `stored` has the names of linears and norms
// that checkpoints have instead; null: the same. INVALID_ARGUMENT: bad "initializer_range".
absl::StatusOr<BaseDescription> MakeTransformerBase(const char* model_type, nlohmann::json config,
                                                    Transformer transformer, const TransformerNames& names,
                                                    const TransformerNames& stored, const LinearChoices& choices);

// The module over the vocabulary; tied: the word embeddings are it, and a copy in the checkpoint is passed over.
void SetLmHead(const char* name, bool tied, BaseDescription* base);

// Tasks. `head`'s last module has one row a label.
TaskDescription SequenceClassification(TaskDescription::Read read, std::vector<HeadModule> head);
TaskDescription CausalLm();
TaskDescription SentenceEmbedding();

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_TRANSFORMER_NAMES_H_
