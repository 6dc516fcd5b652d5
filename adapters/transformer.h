#ifndef WEFT_ADAPTERS_TRANSFORMER_H_
#define WEFT_ADAPTERS_TRANSFORMER_H_

// A transformer as data (Vaswani et al., arXiv 1706.03762, and what came after): sizes, choices, and which modules of
// the base stand where. One network (training/models/transformer.h) computes them all; a family of models
// (adapters/families) fills this in from its config.json.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace weft {

enum class Activation { kNone, kRelu, kTanh, kGelu, kGeluTanh, kSilu };  // kGelu by erf, kGeluTanh by its tanh formula

// Rotary positions (Su et al., arXiv 2104.09864), half-split as in Llama: dimension i of a head turns with i +
// rotated/2.
struct RotaryPositions {
  double theta = 10000;
  int64_t rotated = 0;  // leading dimensions of a head that turn; even
  // Frequencies f_i = theta^(-2i/rotated) change by: kLinear f / factor; kLlama3 its three bands (Llama 3.1); kYarn
  // (arXiv 2309.00071) interpolation by frequency, and cos and sin times attention_factor.
  enum class Scaling { kNone, kLinear, kLlama3, kYarn } scaling = Scaling::kNone;
  double factor = 1;
  double low_frequency_factor = 1, high_frequency_factor = 4;  // kLlama3
  double beta_fast = 32, beta_slow = 1, attention_factor = 1;  // kYarn
  int64_t original_max_positions = 0;                          // kLlama3, kYarn
};

// Where images become tokens: patches in row order through one linear map, after a class token (Dosovitskiy et al.,
// arXiv 2010.11929).
struct Patches {
  int64_t image_size = 0;  // pixels a side
  int64_t patch_size = 0;  // divides image_size
  int64_t channels = 0;
  std::string projection;   // module, W [hidden, channels, patch, patch]
  std::string class_token;  // tensor [1, 1, hidden]
  int64_t count() const { return (image_size / patch_size) * (image_size / patch_size); }
};

// Indices into BaseDescription::linears and ::norms; -1: not there.
struct TransformerLayer {
  // Either one module for all three, their outputs side by side, or one for each.
  int query_key_value = -1;
  int query = -1, key = -1, value = -1;
  int attention_output = -1;
  int gate = -1;  // of a gated feed-forward part: down(activation(gate(x)) * up(x)); without: down(activation(up(x)))
  int up = -1, down = -1;
  // With norm_first before the attention and before the feed-forward part, else after each is added.
  int attention_norm = -1, feed_forward_norm = -1;
  int query_norm = -1, key_norm = -1;  // over each head, before positions turn it (Qwen3)
};

struct Transformer {
  int64_t hidden = 0;  // width of a token
  int64_t heads = 0;
  int64_t key_heads = 0;  // of keys and values; divides heads
  int64_t head_dim = 0;
  int64_t intermediate = 0;
  int64_t vocabulary = 0;     // 0 for images
  int64_t max_positions = 0;  // longest row, in tokens; of images, with the class token

  bool norm_first = false;
  bool rms_norm = false;  // else layer norm
  double norm_epsilon = 0;
  bool causal = false;
  int64_t sliding_window = 0;  // a token sees itself and this many less one before it; 0: all
  Activation activation = Activation::kGelu;
  std::optional<RotaryPositions> rotary;
  std::optional<Patches> patches;

  // Modules and tensors without ".weight"; empty: none.
  std::string word_embeddings;          // [vocabulary, hidden]
  std::string position_embeddings;      // [rows, hidden]; of images a plain tensor [1, 1 + patches, hidden]
  int64_t position_embedding_rows = 0;  // as stored
  int64_t first_position = 0;           // row of position_embeddings that the first token gets (RoBERTa: 2)
  std::string token_type_embeddings;    // row 0 of [token_types, hidden] is added
  int64_t token_types = 0;
  int embedding_norm = -1;  // index into norms; -1: none
  int final_norm = -1;
  // Of causal_lm: module with W [vocabulary, hidden], no bias; empty: word_embeddings itself.
  std::string lm_head;

  std::vector<TransformerLayer> layers;
  // Beginnings of tensors that a checkpoint may hold beside what is read: heads of other tasks, buffers. Any further
  // one is refused.
  std::vector<std::string> ignored;
};

}  // namespace weft

#endif  // WEFT_ADAPTERS_TRANSFORMER_H_
