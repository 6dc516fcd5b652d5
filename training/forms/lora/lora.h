#ifndef WEFT_TRAINING_FORMS_LORA_LORA_H_
#define WEFT_TRAINING_FORMS_LORA_LORA_H_

#include <memory>

#include "absl/status/statusor.h"
#include "proto/job.pb.h"
#include "training/forms/form.h"

namespace weft {

// LoRA (Hu et al., arXiv 2106.09685, equation 3): y = W x + b + scale * B A dropout(x), with A [rank, in] in
// "<module>.lora_A.weight" and B [out, rank] in "<module>.lora_B.weight". A member whose factors are cut has a smaller
// rank; the scale stays that of the whole. INVALID_ARGUMENT: a config that adapters/forms/lora refuses.
absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchLora(const proto::AdapterConfig& config);

}  // namespace weft

#endif  // WEFT_TRAINING_FORMS_LORA_LORA_H_
