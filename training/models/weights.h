#ifndef WEFT_TRAINING_MODELS_WEIGHTS_H_
#define WEFT_TRAINING_MODELS_WEIGHTS_H_

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/safetensors.h"

namespace weft {

// The frozen weights of a base: every *.safetensors of a Hugging Face folder, mapped. Tensors that are F32 and aligned
// are used where they lie; BF16, F16 and unaligned ones are copied to fp32. Tensors given out keep no reference: this
// object must outlive them.
class BaseWeights {
 public:
  // NOT_FOUND: no such folder, or no *.safetensors in it. INVALID_ARGUMENT: a tensor in two files. Otherwise as
  // SafetensorsFile::Open.
  static absl::StatusOr<std::unique_ptr<BaseWeights>> Open(const std::string& folder);

  // The tensor called `prefix` + `name`, or `name` (a checkpoint of the bare encoder), as fp32 on `device`, never
  // requiring gradients. INVALID_ARGUMENT naming it: missing, another shape, a dtype other than F32, BF16 and F16.
  absl::StatusOr<at::Tensor> Get(const std::string& prefix, const std::string& name, const std::vector<int64_t>& shape,
                                 at::Device device) const;

 private:
  explicit BaseWeights(std::string folder) : folder_(std::move(folder)) {}

  const std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, SafetensorView> tensors_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_WEIGHTS_H_
