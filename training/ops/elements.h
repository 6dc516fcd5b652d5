#ifndef WEFT_TRAINING_OPS_ELEMENTS_H_
#define WEFT_TRAINING_OPS_ELEMENTS_H_

// Tensors on the CPU as what kernels see: fp32 as float, bf16 as the bits in uint16_t.

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>

namespace weft {

// f(T{}) with the T that stands for this type.
template <typename F>
void WithElement(at::ScalarType type, const F& f) {
  if (type == at::kFloat) return f(float{});
  TORCH_CHECK(type == at::kBFloat16, "found a tensor of ", type, ", expected Float or BFloat16");
  f(uint16_t{});
}

template <typename T>
const T* ConstData(const at::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* MutableData(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// The same matrix with the elements of each row side by side; rows may lie apart.
inline at::Tensor WithDenseRows(const at::Tensor& matrix) {
  return matrix.size(1) == 1 || matrix.stride(1) == 1 ? matrix : matrix.contiguous();
}

// Rows of this many elements that are worth a thread of their own.
inline int64_t RowsPerThread(int64_t width) { return 1 + 16384 / (width + 1); }

}  // namespace weft

#endif  // WEFT_TRAINING_OPS_ELEMENTS_H_
