#ifndef WEFT_ADAPTERS_FORMS_LORA_SB_LORA_SB_H_
#define WEFT_ADAPTERS_FORMS_LORA_SB_LORA_SB_H_

// LoRA-SB (Ponkshe et al., "Initialization using Update Approximation is a Silver Bullet for Extremely Efficient
// Low-Rank Fine-Tuning", arXiv 2411.19557): W x becomes W x + scale * B R A x on the target modules, with fixed B and A
// and a small trained R. Tensors of a module: "<module>.lora_sb_A.weight" [rank, in] of role fixed.lora_a,
// "<module>.lora_sb_R.weight" [rank, rank] of role lora_r, "<module>.lora_sb_B.weight" [out, rank] of role
// fixed.lora_b.

#include <google/protobuf/struct.pb.h>

#include <memory>

#include "absl/status/statusor.h"
#include "adapters/forms/form.h"
#include "nlohmann/json.hpp"

namespace weft {

// Hugging Face PEFT knows no such form; folders of it are this system's own.
inline constexpr char kLoraSbPeftType[] = "WEFT_LORA_SB";

// INVALID_ARGUMENT: see adapters/forms/lora_sb/lora_sb.proto. Tensors refuses each target that matches no module, and a
// rank over the inputs or outputs of a module. A starts with orthonormal rows and B with orthonormal columns, seeded
// and random; R as zero, so that the base's output is unchanged. ForPeft gives plain LoRA of A and scale * B R.
absl::StatusOr<std::unique_ptr<Form>> CreateLoraSb(const google::protobuf::Struct& config);

// The config that PeftConfig wrote. INVALID_ARGUMENT naming the key: a field that is missing, of another kind, or
// unknown and switched on.
absl::StatusOr<google::protobuf::Struct> LoraSbFromPeft(const nlohmann::json& peft_config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FORMS_LORA_SB_LORA_SB_H_
