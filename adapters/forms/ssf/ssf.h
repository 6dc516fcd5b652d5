#ifndef WEFT_ADAPTERS_FORMS_SSF_SSF_H_
#define WEFT_ADAPTERS_FORMS_SSF_SSF_H_

// SSF (Lian et al., "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", arXiv 2210.08823,
// equation 3): the output y of a target module, linear, norm or patch projection, becomes scale * y + shift. Tensors of
// a module: "<module>.ssf_scale" [width] of role ssf_scale, then "<module>.ssf_shift" [width] of role ssf_shift.

#include <google/protobuf/struct.pb.h>

#include <memory>

#include "absl/status/statusor.h"
#include "adapters/forms/form.h"
#include "nlohmann/json.hpp"

namespace weft {

// Hugging Face PEFT knows no such form; folders of it are this system's own.
inline constexpr char kSsfPeftType[] = "WEFT_SSF";

// INVALID_ARGUMENT: see adapters/forms/ssf/ssf.proto. Tensors: the patch projection, linears and norms in the base's
// order, all without targets; refuses each target that matches none. Scale starts as normal(1, 0.02), shift as
// normal(0, 0.02), as the paper's code does. Merge refuses a shift that is not zero of a module without bias.
absl::StatusOr<std::unique_ptr<Form>> CreateSsf(const google::protobuf::Struct& config);

// The config that PeftConfig wrote. INVALID_ARGUMENT naming the key: of another kind, or unknown and switched on.
absl::StatusOr<google::protobuf::Struct> SsfFromPeft(const nlohmann::json& peft_config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FORMS_SSF_SSF_H_
