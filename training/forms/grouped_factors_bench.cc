// LoRA's products, forward and backward, of a cohort through kernels/grouped_lora, and how many times as fast that is
// as ATen's products member by member. Two threads at most.
//   grouped_factors_bench     prints <case>_ms= and <case>_over_aten=

#include <ATen/Parallel.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "training/forms/grouped_factors.h"

namespace weft {
namespace {

// Of many calls.
template <typename F>
double BestSeconds(const F& f) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9, spent = 0;
  while (spent < 0.2) {
    const Clock::time_point start = Clock::now();
    f();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::min(best, seconds);
    spent += seconds;
  }
  return best;
}

void Bench(const char* name, at::ScalarType dtype, int64_t members, int64_t rows, int64_t width, int64_t rank) {
  GroupedFactor a = {.members = {}, .transposed = false}, b = {.members = {}, .transposed = true};
  Segments segments;
  for (int64_t k = 0; k < members; ++k) {
    a.members.push_back({.value = at::randn({rank, width}), .gradient = at::zeros({rank, width})});
    b.members.push_back({.value = at::randn({width, rank}), .gradient = at::zeros({width, rank})});
    segments.offsets.push_back((k + 1) * rows);
  }
  const at::Tensor x = at::randn({members * rows, width}).to(dtype), y = x.clone(), gradient = x.clone();
  const auto seconds = [&](ProductPath path) {
    return BestSeconds([&] {
      const at::Tensor low = NewLow(a, segments, at::kCPU), low_gradient = NewLow(a, segments, at::kCPU);
      ProjectAndExpand(segments, FactorRows{&a, x}, low, FactorRows{&b, y, 1e-6}, path);
      const FactorRows from = {&b, y, 1e-6};
      ProjectAndExpand(segments, from, low_gradient, FactorRows{&a, gradient, 1e-6}, path);
      const FactorGradient gradients[] = {{{&a, x}, low_gradient}, {from, low}};
      AddGradients(segments, gradients, path);
    });
  };
  const double kernel = seconds(ProductPath::kBest), aten = seconds(ProductPath::kAten);
  std::printf("%s_ms=%.3f\n%s_over_aten=%.2f\n", name, kernel * 1e3, name, aten / kernel);
}

}  // namespace
}  // namespace weft

int main() {
  const c10::InferenceMode inference;
  at::set_num_threads(std::min(2, at::get_num_threads()));
  weft::Bench("lora_f32_20x120x384_r8", at::kFloat, 20, 120, 384, 8);
  weft::Bench("lora_bf16_20x120x384_r8", at::kBFloat16, 20, 120, 384, 8);
  weft::Bench("lora_f32_1x480x384_r8", at::kFloat, 1, 480, 384, 8);
  weft::Bench("lora_bf16_1x480x384_r8", at::kBFloat16, 1, 480, 384, 8);
  weft::Bench("lora_f32_20x8x384_r8", at::kFloat, 20, 8, 384, 8);
  weft::Bench("lora_bf16_1x1000x2048_r16", at::kBFloat16, 1, 1000, 2048, 16);
}
