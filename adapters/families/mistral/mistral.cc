#include "adapters/families/mistral/mistral.h"

#include <utility>

#include "adapters/families/decoder.h"

namespace weft {

absl::StatusOr<BaseDescription> DescribeMistral(nlohmann::json config) {
  static constexpr DecoderFamily kFamily = {
      .model_type = "mistral", .default_key_heads = 8, .window = DecoderFamily::Window::kEach};
  return DescribeDecoder(kFamily, std::move(config));
}

}  // namespace weft
