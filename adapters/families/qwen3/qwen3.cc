#include "adapters/families/qwen3/qwen3.h"

#include <utility>

#include "adapters/families/decoder.h"

namespace weft {

absl::StatusOr<BaseDescription> DescribeQwen3(nlohmann::json config) {
  static constexpr DecoderFamily kFamily = {.model_type = "qwen3",
                                            .default_key_heads = 32,
                                            .default_head_dim = 128,
                                            .reads_attention_bias = true,
                                            .head_norms = true,
                                            .window = DecoderFamily::Window::kByLayer};
  return DescribeDecoder(kFamily, std::move(config));
}

}  // namespace weft
