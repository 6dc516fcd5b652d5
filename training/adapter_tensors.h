#ifndef WEFT_TRAINING_ADAPTER_TENSORS_H_
#define WEFT_TRAINING_ADAPTER_TENSORS_H_

#include <ATen/core/Tensor.h>

#include <set>
#include <string>
#include <vector>

#include "adapters/adapter.h"
#include "training/forms/form.h"

namespace weft {

// An adapter's values on the device. Tensors of the trained roles are views of one flat buffer, role by role, and their
// gradients views of another, so that optimizers step over few flat tensors. The rest is constant. With a rank, LoRA
// factors are cut to their first components. Not thread-safe.
class AdapterTensors {
 public:
  // One role's place in the flat buffers, [begin, end).
  struct Stretch {
    std::string role;
    int64_t begin, end;
  };

  // rank: components that LoRA factors are cut to, not over what they have; 0: all.
  AdapterTensors(const Adapter& start, const std::set<std::string>& roles_trained, int64_t rank, at::Device device);

  // Every tensor of the layout; those of trained roles are leaves that require gradients.
  const NamedTensors& tensors() const { return tensors_; }
  at::Tensor& values() { return values_; }        // [trained elements]
  at::Tensor& gradients() { return gradients_; }  // [trained elements]; backward passes add to it
  // Of the flat buffers, in order, without gaps.
  const std::vector<Stretch>& stretches() const { return stretches_; }
  // [trained elements]: values of `other`, whose tensors have the names and shapes of this layout; zero for a tensor it
  // lacks.
  at::Tensor Flatten(const Adapter& other) const;
  // The values as an adapter of the same layout, zero beyond the rank.
  Adapter ToAdapter() const;

 private:
  // The part of `tensor`, of the layout's shape, that takes part.
  at::Tensor Cut(const TensorSpec& spec, const at::Tensor& tensor) const;

  const std::shared_ptr<const Layout> layout_;
  const int64_t rank_;
  std::vector<const TensorSpec*> trained_;  // in the order of the flat buffers
  std::vector<Stretch> stretches_;
  NamedTensors tensors_;
  at::Tensor values_, gradients_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_ADAPTER_TENSORS_H_
