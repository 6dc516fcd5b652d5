// GB/s of norms over rows of 128 and 384 (in the second cache) and of 2048 (in the third), on one core, and over
// memcpy's.
//   norm_bench     prints <kernel>_gb_per_s= and <kernel>_over_memcpy=

#include "kernels/norm/norm.h"

#include <string>
#include <vector>

#include "kernels/norm/bench.h"

namespace weft::kernels {
namespace {

template <typename T>
std::vector<T> Filled(int64_t count) {
  std::vector<T> values(count);
  // Small numbers of both signs; as bits of bf16, around 2.
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<T>(sizeof(T) == 2 ? 0x4000 + i % 63 : i % 63 - 31);
  return values;
}

template <typename T>
void Bench(const std::string& name, int64_t count, int64_t width, bool rms) {
  const std::vector<float> weight(width, 1.5f);
  const NormWeights weights = {weight.data(), rms ? nullptr : weight.data(), width, 1e-5f, rms};
  const std::vector<T> x = Filled<T>(count * width), residual = Filled<T>(count * width);
  std::vector<T> sum(count * width), out(count * width), gradient(count * width);
  std::vector<float> mean(count), rstd(count);
  const int64_t bytes = count * width * static_cast<int64_t>(sizeof(T));
  const auto rows = [&](auto& from) {
    return NormRows<std::remove_reference_t<decltype(*from.data())>>{from.data(), width};
  };
  const NormForwardRows<T> plain = {rows(x), {}, {}, rows(out), mean.data(), rstd.data()};
  const NormForwardRows<T> added = {rows(x), rows(residual), rows(sum), rows(out), mean.data(), rstd.data()};
  const NormBackwardRows<T> back = {rows(x), mean.data(), rstd.data(), rows(residual), {}, rows(gradient)};
  PrintGigabytesPerSecond(name + "_forward", 2 * bytes, [&] { NormForward(weights, plain, 0, count); });
  PrintGigabytesPerSecond(name + "_add_forward", 4 * bytes, [&] { NormForward(weights, added, 0, count); });
  PrintGigabytesPerSecond(name + "_backward", 3 * bytes, [&] { NormBackward(weights, back, 0, count); });
}

}  // namespace
}  // namespace weft::kernels

int main() {
  using weft::kernels::Bench;
  Bench<float>("layer_f32_384", 128, 384, /*rms=*/false);
  Bench<uint16_t>("layer_bf16_384", 256, 384, /*rms=*/false);
  Bench<float>("layer_f32_2048", 1024, 2048, /*rms=*/false);
  Bench<float>("rms_f32_2048", 1024, 2048, /*rms=*/true);
  Bench<uint16_t>("rms_bf16_2048", 2048, 2048, /*rms=*/true);
  Bench<float>("rms_f32_128", 512, 128, /*rms=*/true);
}
