#ifndef WEFT_TRAINING_TORCH_ERRORS_H_
#define WEFT_TRAINING_TORCH_ERRORS_H_

#include <functional>

#include "absl/status/status.h"

namespace weft {

// Runs `work` at the edge of training/: what LibTorch throws becomes a status. RESOURCE_EXHAUSTED: memory, on the CPU
// or a GPU; INTERNAL: else.
absl::Status CatchTorch(const std::function<absl::Status()>& work);

}  // namespace weft

#endif  // WEFT_TRAINING_TORCH_ERRORS_H_
