// GB/s of activations over 1 MB (in the second cache) and 32 MB (in the third), on one core, and over memcpy's.
//   activation_bench     prints <kernel>_gb_per_s= and <kernel>_over_memcpy=

#include "kernels/activation/activation.h"

#include <string>
#include <vector>

#include "kernels/norm/bench.h"

namespace weft::kernels {
namespace {

template <typename T>
void Bench(const std::string& name, ActivationCurve curve, int64_t count) {
  std::vector<T> x(2 * count);
  // -3.1 to 3.1; as bits of bf16, around 2 and -2.
  for (int64_t i = 0; i < 2 * count; ++i) {
    x[i] = static_cast<T>(sizeof(T) == 2 ? 0x4000 + i % 63 + ((i % 2) << 15) : static_cast<double>(i % 63 - 31) / 10);
  }
  std::vector<T> out(count), gradient(2 * count);
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T)), width = 1536;
  PrintGigabytesPerSecond(name + "_forward", 2 * bytes, [&] { ActivationForward(curve, x.data(), out.data(), count); });
  PrintGigabytesPerSecond(name + "_backward", 3 * bytes,
                          [&] { ActivationBackward(curve, x.data(), out.data(), gradient.data(), count); });
  PrintGigabytesPerSecond(name + "_gated_forward", 3 * bytes,
                          [&] { GatedForward(curve, x.data(), width, out.data(), 0, count / width); });
  PrintGigabytesPerSecond(name + "_gated_backward", 5 * bytes, [&] {
    GatedBackward(curve, x.data(), width, out.data(), gradient.data(), 0, count / width);
  });
}

template <typename T>
void BenchAll(const std::string& suffix, int64_t count) {
  Bench<T>("relu" + suffix, ActivationCurve::kRelu, count);
  Bench<T>("gelu" + suffix, ActivationCurve::kGelu, count);
  Bench<T>("gelu_tanh" + suffix, ActivationCurve::kGeluTanh, count);
  Bench<T>("silu" + suffix, ActivationCurve::kSilu, count);
}

}  // namespace
}  // namespace weft::kernels

int main() {
  using weft::kernels::BenchAll;
  BenchAll<float>("_f32_1mb", 96 * 1536);
  BenchAll<float>("_f32_32mb", 3072 * 1536);
  BenchAll<uint16_t>("_bf16_1mb", 192 * 1536);
}
