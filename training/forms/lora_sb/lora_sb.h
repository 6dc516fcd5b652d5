#ifndef WEFT_TRAINING_FORMS_LORA_SB_LORA_SB_H_
#define WEFT_TRAINING_FORMS_LORA_SB_LORA_SB_H_

#include <memory>

#include "absl/status/statusor.h"
#include "proto/job.pb.h"
#include "training/forms/form.h"

namespace weft {

// LoRA-SB (Ponkshe et al., arXiv 2411.19557): y = W x + b + scale * B R A dropout(x), with A [rank, in] in
// "<module>.lora_sb_A.weight", R [rank, rank] in "<module>.lora_sb_R.weight" and B [out, rank] in
// "<module>.lora_sb_B.weight". R is what can be trained. INVALID_ARGUMENT: a config that adapters/forms/lora_sb
// refuses.
absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchLoraSb(const proto::AdapterConfig& config);

}  // namespace weft

#endif  // WEFT_TRAINING_FORMS_LORA_SB_LORA_SB_H_
