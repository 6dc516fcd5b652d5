#include "adapters/families/llama/llama.h"

#include <utility>

#include "adapters/families/decoder.h"

namespace weft {

absl::StatusOr<BaseDescription> DescribeLlama(nlohmann::json config) {
  static constexpr DecoderFamily kFamily = {
      .model_type = "llama", .reads_attention_bias = true, .reads_mlp_bias = true};
  return DescribeDecoder(kFamily, std::move(config));
}

}  // namespace weft
