#ifndef WEFT_TRAINING_MODELS_WEIGHTS_H_
#define WEFT_TRAINING_MODELS_WEIGHTS_H_

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/safetensors.h"

namespace weft {

// The frozen weights of a base: the safetensors files of a Hugging Face folder, mapped. Tensors given out lie in the
// mapping wherever alignment allows and keep no reference: this object must outlive them.
class BaseWeights {
 public:
  // `prefix`: of all names in a task model; a checkpoint of the bare model lacks it. Read are the files that
  // model.safetensors.index.json names, else model.safetensors, else every *.safetensors. NOT_FOUND: no such folder or
  // file. INVALID_ARGUMENT: a tensor in two files, an index that is none. Otherwise as SafetensorsFile::Open.
  static absl::StatusOr<std::unique_ptr<BaseWeights>> Open(const std::string& folder, const std::string& prefix);

  // The tensor called `name`, with or without the prefix, in the dtype it is stored in, on the CPU, never requiring
  // gradients. A norm's "weight" and "bias" may be called "gamma" and "beta" (early checkpoints). INVALID_ARGUMENT
  // naming it: missing, another shape, a dtype other than F32, BF16 and F16.
  absl::StatusOr<at::Tensor> Get(const std::string& name, const std::vector<int64_t>& shape) const;
  // The same, counted as taken for CheckAllTaken. Not beside other calls.
  absl::StatusOr<at::Tensor> Take(const std::string& name, const std::vector<int64_t>& shape);

  bool Has(const std::string& name) const { return !NameInFiles(name).empty(); }

  // INVALID_ARGUMENT naming a tensor that was never taken and does not begin with one of `ignored` (with or without the
  // prefix): the checkpoint is of another model than config.json describes.
  absl::Status CheckAllTaken(const std::vector<std::string>& ignored) const;

  // Tells the system that pages of the mapping are not needed for now; they come back from the file when read.
  void DropPages() const;

 private:
  BaseWeights(std::string folder, std::string prefix) : folder_(std::move(folder)), prefix_(std::move(prefix)) {}
  std::string NameInFiles(const std::string& name) const;  // empty: none

  const std::string folder_, prefix_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, SafetensorView> tensors_;
  std::set<std::string> taken_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_WEIGHTS_H_
