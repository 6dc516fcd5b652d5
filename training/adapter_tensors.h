#ifndef WEFT_TRAINING_ADAPTER_TENSORS_H_
#define WEFT_TRAINING_ADAPTER_TENSORS_H_

#include <ATen/core/Tensor.h>

#include <set>
#include <string>

#include "adapters/adapter.h"
#include "training/forms/form.h"

namespace weft {

// An adapter's values on the device. Tensors of the trained roles are views of one flat buffer, in layout order, and
// their gradients views of another, so that an optimizer steps over two flat tensors. The rest is constant. Not
// thread-safe.
class AdapterTensors {
 public:
  AdapterTensors(const Adapter& start, const std::set<std::string>& roles_trained, at::Device device);

  // Every tensor of the layout; those of trained roles are leaves that require gradients.
  const NamedTensors& tensors() const { return tensors_; }
  at::Tensor& values() { return values_; }        // [trained elements]
  at::Tensor& gradients() { return gradients_; }  // [trained elements]; backward passes add to it
  // The values as an adapter of the same layout.
  Adapter ToAdapter() const;

 private:
  const std::shared_ptr<const Layout> layout_;
  NamedTensors tensors_;
  at::Tensor values_, gradients_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_ADAPTER_TENSORS_H_
