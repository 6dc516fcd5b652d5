#ifndef WEFT_TRAINING_FORMS_SSF_SSF_H_
#define WEFT_TRAINING_FORMS_SSF_SSF_H_

#include <memory>

#include "absl/status/statusor.h"
#include "proto/job.pb.h"
#include "training/forms/form.h"

namespace weft {

// SSF (Lian et al., arXiv 2210.08823, equation 2): the output y of a linear module, a norm or the patch projection
// becomes scale * y + shift, with scale [width] in "<module>.ssf_scale" and shift [width] in "<module>.ssf_shift".
// INVALID_ARGUMENT: a config that adapters/forms/ssf refuses.
absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchSsf(const proto::AdapterConfig& config);

}  // namespace weft

#endif  // WEFT_TRAINING_FORMS_SSF_SSF_H_
