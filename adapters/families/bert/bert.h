#ifndef WEFT_ADAPTERS_FAMILIES_BERT_BERT_H_
#define WEFT_ADAPTERS_FAMILIES_BERT_BERT_H_

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

// BERT (Devlin et al., arXiv 1810.04805): learned positions, norm after each part, pooler on the first token. MiniLM
// has the same shape. `config` is an object. INVALID_ARGUMENT naming the key: missing or bad size, another choice than
// its network has (relative positions, decoders).
absl::StatusOr<BaseDescription> DescribeBert(nlohmann::json config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_BERT_BERT_H_
