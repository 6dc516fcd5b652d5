#ifndef WEFT_TRAINING_FORMS_LORA_LORA_H_
#define WEFT_TRAINING_FORMS_LORA_LORA_H_

#include <google/protobuf/struct.pb.h>

#include <memory>

#include "absl/status/statusor.h"
#include "training/forms/form.h"

namespace weft {

// LoRA (Hu et al., arXiv 2106.09685, section 4.1): y = W x + b + (alpha / rank) B A dropout(x), with A [rank, in] in
// "<module>.lora_A.weight" and B [out, rank] in "<module>.lora_B.weight". Factors of fewer components
// attach too, at the same scale. INVALID_ARGUMENT as proto::FromStruct of lora.proto.
absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchLora(const google::protobuf::Struct& config);

}  // namespace weft

#endif  // WEFT_TRAINING_FORMS_LORA_LORA_H_
