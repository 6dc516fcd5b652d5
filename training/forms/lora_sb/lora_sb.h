#ifndef WEFT_TRAINING_FORMS_LORA_SB_LORA_SB_H_
#define WEFT_TRAINING_FORMS_LORA_SB_LORA_SB_H_

#include <google/protobuf/struct.pb.h>

#include <memory>

#include "absl/status/statusor.h"
#include "training/forms/form.h"

namespace weft {

// LoRA-SB (Ponkshe et al., arXiv 2411.19557): y = W x + b + scale * B R A dropout(x), with A [rank, in] in
// "<module>.lora_sb_A.weight", R [rank, rank] in "<module>.lora_sb_R.weight" and B [out, rank] in
// "<module>.lora_sb_B.weight". INVALID_ARGUMENT as proto::FromStruct of lora_sb.proto.
absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchLoraSb(const google::protobuf::Struct& config);

}  // namespace weft

#endif  // WEFT_TRAINING_FORMS_LORA_SB_LORA_SB_H_
