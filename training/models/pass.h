#ifndef WEFT_TRAINING_MODELS_PASS_H_
#define WEFT_TRAINING_MODELS_PASS_H_

#include <ATen/core/Tensor.h>

#include <deque>
#include <vector>

#include "training/forms/form.h"
#include "training/models/frozen_linear.h"
#include "training/ops/segments.h"

namespace weft {

// One pass of several members over a base: what is attached to it, and how it computes. Must outlive the backward pass.
// Not thread-safe.
class Pass {
 public:
  struct Options {
    const AttachedForm* form = nullptr;
    const PassRandom* random = nullptr;  // nullptr: no dropout
    at::ScalarType dtype = at::kFloat;
    bool checkpointing = false;
  };
  explicit Pass(const Options& options);

  at::ScalarType dtype() const { return options_.dtype; }
  bool checkpointing() const { return options_.checkpointing; }
  const AttachedForm& form() const { return *options_.form; }
  const PassRandom* random() const { return options_.random; }

  // x [n, in] -> [n, out]: the frozen product, and what is attached to its modules. Differentiable in x and in what is
  // attached.
  at::Tensor Linear(const FrozenLinear& linear, const at::Tensor& x, const Segments& segments);
  // y, or what is attached to the norm at this index makes of it.
  at::Tensor NormOutput(int norm, const at::Tensor& y, const Segments& segments) const;

  // One product under way; refers to what the graph needs once more on the way back.
  struct Call {
    const FrozenLinear* linear;
    std::vector<const LinearAdapter*> adapters;  // of each part; nullptr: none
    Segments segments;
    const PassRandom* random;
  };

 private:
  const Options options_;
  // Requires gradients, so that products are recorded whose input does not but whose adapter has something to learn.
  at::Tensor anchor_;
  std::deque<Call> calls_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_PASS_H_
