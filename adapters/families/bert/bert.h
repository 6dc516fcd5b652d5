#ifndef WEFT_ADAPTERS_FAMILIES_BERT_BERT_H_
#define WEFT_ADAPTERS_FAMILIES_BERT_BERT_H_

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

// BERT (Devlin et al., arXiv 1810.04805) as BertForSequenceClassification of transformers names its modules: 6 a layer,
// then the pooler. `config` is an object. INVALID_ARGUMENT naming the key: missing or bad size, heads that do not
// divide hidden_size.
absl::StatusOr<BaseDescription> DescribeBert(nlohmann::json config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_BERT_BERT_H_
