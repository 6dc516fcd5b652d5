#ifndef WEFT_ADAPTERS_FAMILIES_VIT_VIT_H_
#define WEFT_ADAPTERS_FAMILIES_VIT_VIT_H_

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

// ViT (Dosovitskiy et al., arXiv 2010.11929): patches of an image as tokens, classified by a class token.
// INVALID_ARGUMENT naming the key: missing or bad size, images or patches that are not square, patches that do not
// divide the image.
absl::StatusOr<BaseDescription> DescribeVit(nlohmann::json config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_VIT_VIT_H_
