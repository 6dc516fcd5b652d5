#ifndef WEFT_ADAPTERS_FORMS_LORA_LORA_H_
#define WEFT_ADAPTERS_FORMS_LORA_LORA_H_

// LoRA (Hu et al., arXiv 2106.09685, equation 3): W x becomes W x + scale B A x on the target modules, with scale =
// alpha / rank, or alpha / sqrt(rank) (rsLoRA, Kalajdzievski, arXiv 2312.03732, section 3). Rank and alpha may differ
// from module to module. Tensors of a module: "<module>.lora_A.weight" [rank, in] with role lora_a, then
// "<module>.lora_B.weight" [out, rank] with role lora_b.

#include <google/protobuf/struct.pb.h>

#include <memory>

#include "absl/status/statusor.h"
#include "adapters/forms/form.h"
#include "nlohmann/json.hpp"

namespace weft {

// INVALID_ARGUMENT: see adapters/forms/lora/lora.proto, and a pattern that is no regular expression. Tensors refuses
// each target that matches no module, and patterns as ModulePatterns::Check does. A starts as uniform(-1/sqrt(in),
// 1/sqrt(in)), which is PEFT's kaiming_uniform(a=sqrt(5)); B as zero.
absl::StatusOr<std::unique_ptr<Form>> CreateLora(const google::protobuf::Struct& config);

// The config of a PEFT LORA folder. INVALID_ARGUMENT naming the key: a field without an equal here (DoRA, bias, a
// regular expression as target_modules, anything unknown that is switched on), or an initialisation that changed the
// base.
absl::StatusOr<google::protobuf::Struct> LoraFromPeft(const nlohmann::json& peft_config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FORMS_LORA_LORA_H_
