#ifndef WEFT_KERNELS_ACTIVATION_ACTIVATION_H_
#define WEFT_KERNELS_ACTIVATION_ACTIVATION_H_

// Activations element by element: raw pointers, no checks, no threads of their own. Any split gives the same bits on
// one instruction set. T: float, or uint16_t for the bits of bf16; computed in fp32.

#include <cstdint>

namespace weft::kernels {

// kGelu is x times the normal distribution's function, kGeluTanh its form by tanh (Hendrycks and Gimpel, arXiv
// 1606.08415); kSilu x sigmoid(x).
enum class ActivationCurve { kIdentity, kRelu, kTanh, kGelu, kGeluTanh, kSilu };

template <typename T>
void ActivationForward(ActivationCurve curve, const T* x, T* out, int64_t count);

template <typename T>
void ActivationBackward(ActivationCurve curve, const T* x, const T* out_gradient, T* gradient, int64_t count);

// out [rows, width] = curve(gate) * up for rows [begin, end), of gate_up [rows, 2 width]: gate and up side by side.
template <typename T>
void GatedForward(ActivationCurve curve, const T* gate_up, int64_t width, T* out, int64_t begin, int64_t end);

// gradient [rows, 2 width]: of gate_up.
template <typename T>
void GatedBackward(ActivationCurve curve, const T* gate_up, int64_t width, const T* out_gradient, T* gradient,
                   int64_t begin, int64_t end);

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_ACTIVATION_ACTIVATION_H_
