#include "adapters/families/qwen2/qwen2.h"

#include <utility>

#include "adapters/families/decoder.h"

namespace weft {

absl::StatusOr<BaseDescription> DescribeQwen2(nlohmann::json config) {
  static constexpr DecoderFamily kFamily = {.model_type = "qwen2",
                                            .default_key_heads = 32,
                                            .query_key_value_bias = true,
                                            .window = DecoderFamily::Window::kByLayer};
  return DescribeDecoder(kFamily, std::move(config));
}

}  // namespace weft
