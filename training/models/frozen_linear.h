#ifndef WEFT_TRAINING_MODELS_FROZEN_LINEAR_H_
#define WEFT_TRAINING_MODELS_FROZEN_LINEAR_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace weft {

// One or several linear modules of the base that read the same input, computed as one product: y = x W^T + b, the
// outputs of the modules side by side. Never trained. As W is constant, the CPU keeps it twice in oneDNN's own order,
// once for each direction, and products skip the packing that a general one does on every call (a sixth faster here);
// small weights, where a call costs more than its packing, and other devices use W where it lies. Prepared for a dtype
// when first used with it; threads may share it. Autograd graphs refer to it: it must outlive them. Copies share all.
class FrozenLinear {
 public:
  // Products on the CPU are prepared per number of rows: keep it to multiples of this, so that few have to be.
  static constexpr int64_t kRowMultiple = 16;

  struct Part {
    size_t module = 0;  // index into BaseDescription::linears
    at::Tensor weight;  // [out, in], any float dtype and strides, on the CPU
    at::Tensor bias;    // [out]; undefined: none
    int64_t begin = 0;  // first column of its outputs in y; filled in by the constructor
    int64_t end() const { return begin + weight.size(0); }
  };

  FrozenLinear(std::vector<Part> parts, at::Device device);

  const std::vector<Part>& parts() const { return parts_; }
  int64_t out_features() const { return parts_.back().end(); }
  int64_t in_features() const { return parts_.front().weight.size(1); }

  // [n, in] -> [n, out] of the same dtype, fp32 or bf16. Outside autograd.
  at::Tensor Product(const at::Tensor& x) const;
  // [n, out] -> [n, in]: y_gradient W. Outside autograd.
  at::Tensor InputGradient(const at::Tensor& y_gradient) const;

  bool IsPrepared(at::ScalarType dtype) const;
  // Bytes it holds prepared for one dtype, mapped weights aside.
  int64_t PreparedBytes(at::ScalarType dtype) const;

 private:
  struct Prepared;
  struct Cache;
  const Prepared& PreparedFor(at::ScalarType dtype) const;

  std::vector<Part> parts_;
  at::Device device_;
  std::shared_ptr<Cache> cache_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_FROZEN_LINEAR_H_
