#ifndef WEFT_TRAINING_FORMS_FORM_H_
#define WEFT_TRAINING_FORMS_FORM_H_

// The torch half of an adapter form: how its tensors change what modules of the base compute. The torch-free half is
// adapters/forms/<form>.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/job.pb.h"
#include "training/models/frozen_linear.h"

namespace weft {

// Source of dropout masks: a CPU generator while training, nothing while evaluating.
using DropoutSource = std::optional<at::Generator>;

// What stands in place of one linear module once a form is attached to it. Immutable; the tensors in it are the
// adapter's.
class LinearAdapter {
 public:
  virtual ~LinearAdapter() = default;
  // [n, in] -> [n, out]. `dropout` advances when used.
  virtual at::Tensor Forward(const FrozenLinear& linear, const at::Tensor& x, DropoutSource& dropout) const = 0;
};

// An adapter attached to a base: for each of the base's linears, in its order, what replaces it, or nullptr.
using AttachedForm = std::vector<std::unique_ptr<LinearAdapter>>;

// The adapter's tensors by name, as in the layout.
using NamedTensors = std::map<std::string, at::Tensor>;

// One form with one configuration. Stateless.
class TorchForm {
 public:
  virtual ~TorchForm() = default;
  // INVALID_ARGUMENT naming the tensor: one whose module the base lacks, one without its partner, a shape that does not
  // fit the module. Tensors of other owners (the head) are passed over.
  virtual absl::StatusOr<AttachedForm> Attach(const std::vector<FrozenLinear>& linears,
                                              const NamedTensors& tensors) const = 0;
};

// INVALID_ARGUMENT: unknown form (lists the known ones), or a config its message refuses.
absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchForm(const proto::AdapterConfig& config);

}  // namespace weft

#endif  // WEFT_TRAINING_FORMS_FORM_H_
