#ifndef WEFT_TRAINING_FORMS_FORM_H_
#define WEFT_TRAINING_FORMS_FORM_H_

// The torch half of an adapter form: how its tensors change what the base computes, for the members of a cohort
// together. The torch-free half is adapters/forms/<form>.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "proto/job.pb.h"
#include "training/ops/segments.h"

namespace weft {

// One tensor of one member's adapter.
struct MemberTensor {
  at::Tensor value;     // fp32, on the device, contiguous; a leaf that requires gradients where it is trained
  at::Tensor gradient;  // of the same shape: where its gradient is added up (value.grad() is this); undefined: constant
};

// One member's adapter by name, as in the layout. With a rank of its own, LoRA factors are cut to it.
using MemberTensors = std::map<std::string, MemberTensor>;

// What every random choice of a pass is a function of, with the place where it is made: so it is the same whoever else
// is in the pass, and again when a layer is computed a second time.
struct PassRandom {
  std::vector<uint64_t> seeds;  // of each member of the pass
  int64_t step = 0;             // counts passes of the round
};

// What Forward keeps for Backward.
using Kept = std::vector<at::Tensor>;

// What a form adds to the output of one linear module. Works outside autograd: gradients of its own tensors are added
// to MemberTensor::gradient where that is defined. Immutable; shares the members' tensors.
class LinearAdapter {
 public:
  virtual ~LinearAdapter() = default;
  // y [n, out] += f(x), x [n, in]; y may be a slice of columns of a wider matrix (stride(1) is 1). Both fp32 or both
  // bf16. `random`: nullptr when evaluating (no dropout). `kept`: for Backward; nullptr when there will be none.
  virtual void Forward(const at::Tensor& x, const Segments& segments, const PassRandom* random, at::Tensor& y,
                       Kept* kept) const = 0;
  // x_gradient [n, in] += df/dx^T y_gradient, unless it is undefined: then nobody wants it. Same dtypes and strides as
  // above.
  virtual void Backward(const at::Tensor& x, const Segments& segments, const PassRandom* random,
                        const at::Tensor& y_gradient, const Kept& kept, at::Tensor& x_gradient) const = 0;
};

// What a form makes of the output of one module, linear or norm: [n, width] -> [n, width] of the same dtype.
// Differentiable through autograd in y and in the members' leaves. Immutable.
class OutputAdapter {
 public:
  virtual ~OutputAdapter() = default;
  virtual at::Tensor Forward(const at::Tensor& y, const Segments& segments) const = 0;
};

// Tokens that a form puts into every row: in front of it, or of images behind the class token.
class PromptAdapter {
 public:
  virtual ~PromptAdapter() = default;
  virtual int64_t tokens() const = 0;
  // Whether layer `layer` > 0 gets tokens of its own in place of what has become of the ones before.
  virtual bool replaces(int64_t layer) const = 0;
  // What layer `layer` reads, [tokens, hidden] fp32 of one member, differentiable in its leaves: layer 0, or one that
  // replaces.
  virtual at::Tensor Prompt(int64_t layer, int64_t member, const PassRandom* random) const = 0;
};

// An adapter attached to a base, for some members: nullptr where nothing is.
struct AttachedForm {
  std::vector<std::unique_ptr<LinearAdapter>> linears;         // in the order of BaseDescription::linears
  std::vector<std::unique_ptr<OutputAdapter>> linear_outputs;  // likewise
  std::vector<std::unique_ptr<OutputAdapter>> norm_outputs;    // in the order of BaseDescription::norms
  std::unique_ptr<OutputAdapter> patch_output;                 // after Patches::projection
  std::unique_ptr<PromptAdapter> prompt;

  explicit AttachedForm(const BaseDescription& base)
      : linears(base.linears.size()), linear_outputs(base.linears.size()), norm_outputs(base.norms.size()) {}
};

// One form with one configuration. Stateless.
class TorchForm {
 public:
  virtual ~TorchForm() = default;
  // Tokens that Attach's prompt will put into every row.
  virtual int64_t prompt_tokens() const { return 0; }
  // One entry per member, all of one layout. INVALID_ARGUMENT naming the tensor: one whose module the base lacks, one
  // without its partner, a shape that does not fit the module. Tensors of other owners (the head) are passed over.
  virtual absl::StatusOr<AttachedForm> Attach(const BaseDescription& base,
                                              std::span<const MemberTensors> members) const = 0;
};

// INVALID_ARGUMENT: unknown form (lists the known ones), or a config its message refuses.
absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchForm(const proto::AdapterConfig& config);

}  // namespace weft

#endif  // WEFT_TRAINING_FORMS_FORM_H_
