#ifndef WEFT_TRAINING_MODELS_FROZEN_LINEAR_H_
#define WEFT_TRAINING_MODELS_FROZEN_LINEAR_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace weft {

// A linear module of the base that never trains: y = x W^T + b. As W is constant, the CPU keeps it twice in oneDNN's
// own order, once for each direction, and products skip the packing that a general one does on every call (a sixth
// faster here); small weights, where a call costs more than its packing, and other
// devices use W where it lies. Immutable, threads may share it. Autograd graphs refer to it: it
// must outlive them. Copies share their tensors.
class FrozenLinear {
 public:
  // Products on the CPU are prepared per number of rows: keep it to multiples of this, so that few have to be.
  static constexpr int64_t kRowMultiple = 16;

  // name: full path in the task model; weight [out, in]; bias [out].
  FrozenLinear(std::string name, at::Tensor weight, at::Tensor bias);

  const std::string& name() const { return name_; }
  int64_t out_features() const { return weight_.size(0); }
  int64_t in_features() const { return weight_.size(1); }
  const at::Tensor& weight() const { return weight_; }  // [out, in]
  const at::Tensor& bias() const { return bias_; }      // [out]

  // [n, in] -> [n, out], differentiable in x.
  at::Tensor Forward(const at::Tensor& x) const;
  // The same outside autograd, for functions that bring their own backward pass.
  at::Tensor Product(const at::Tensor& x) const;
  // [n, out] -> [n, in]: y_gradient W, outside autograd.
  at::Tensor InputGradient(const at::Tensor& y_gradient) const;

 private:
  std::string name_;
  at::Tensor weight_, bias_;
  at::Tensor packed_, packed_transposed_;  // W and W^T in oneDNN's order; undefined where W is used as it lies
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_FROZEN_LINEAR_H_
