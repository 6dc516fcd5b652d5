#ifndef WEFT_ADAPTERS_FAMILIES_DECODER_H_
#define WEFT_ADAPTERS_FAMILIES_DECODER_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

// A family of decoders of Llama's shape (Touvron et al., arXiv 2302.13971): RMS norm first, rotary positions, gated
// feed-forward part, keys and values of fewer heads (Ainslie et al., arXiv 2305.13245).
struct DecoderFamily {
  const char* model_type;
  int64_t default_key_heads = 0;  // where the config does not say; 0: as many as heads
  int64_t default_head_dim = 0;   // likewise; 0: hidden / heads
  // Bias of query, key and value; of these and the attention's output, by "attention_bias"; of gate, up and down, by
  // "mlp_bias".
  bool query_key_value_bias = false;
  bool reads_attention_bias = false;
  bool reads_mlp_bias = false;
  bool head_norms = false;  // of queries and keys
  // Who sees "sliding_window" tokens only: nobody, each layer, or those that "layer_types" names.
  enum class Window { kNone, kEach, kByLayer } window = Window::kNone;
};

// INVALID_ARGUMENT naming the key: missing or bad sizes, rotary positions that are not known, windows that differ by
// layer.
absl::StatusOr<BaseDescription> DescribeDecoder(const DecoderFamily& family, nlohmann::json config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_DECODER_H_
