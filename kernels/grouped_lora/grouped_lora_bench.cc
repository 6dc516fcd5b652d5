// Speed of LoRA's products on one core: a cohort of 20 members of 120 rows and one member of 480, 384 wide and wider.
//   grouped_lora_bench     prints <case>_<product>_gflops=, _gb_per_s= (rows read and written) and _over_memcpy=

#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "kernels/grouped_lora/grouped_lora.h"
#include "kernels/norm/bench.h"

namespace weft::kernels {
namespace {

// Buffers begin at a cache line, as tensors do.
template <typename T>
struct LineAllocator {
  using value_type = T;
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64))); }
  void deallocate(T* values, size_t) { ::operator delete(values, std::align_val_t(64)); }
};
template <typename T>
using Buffer = std::vector<T, LineAllocator<T>>;

template <typename T>
void Bench(const std::string& name, int64_t members, int64_t rows, int64_t width, int64_t rank) {
  Buffer<T> wide(members * rows * width, T{});
  Buffer<T> copy(wide.size() / 2);
  Buffer<float> values(members * rank * width, 0.5f), gradient(values.size()), low(members * rows * rank, 0.5f);
  std::vector<LoraFactor> factors;
  for (int64_t k = 0; k < members; ++k) {
    factors.push_back({.begin = k * rows,
                       .end = (k + 1) * rows,
                       .rank = rank,
                       .values = values.data() + k * rank * width,
                       .gradient = gradient.data() + k * rank * width,
                       .low = low.data() + k * rows * rank});
  }
  const double flops = 2.0 * static_cast<double>(members * rows * width * rank);
  const double bytes = static_cast<double>(wide.size() * sizeof(T));
  const double memcpy_seconds = BestSeconds([&] {  // as many bytes read and written as the matrix has
    std::memcpy(copy.data(), wide.data(), copy.size() * sizeof(T));
    asm volatile("" : : "r"(copy.data()) : "memory");
  });
  const auto print = [&](const std::string& product, double passes, const auto& f) {
    const double seconds = BestSeconds(f);
    const std::string what = name + "_" + product;
    std::printf("%s_gflops=%.1f\n%s_gb_per_s=%.1f\n%s_over_memcpy=%.2f\n", what.c_str(), flops / seconds / 1e9,
                what.c_str(), passes * bytes / seconds / 1e9, what.c_str(), passes * memcpy_seconds / seconds);
  };
  for (const bool transposed : {false, true}) {
    const LoraRows<const T> read = {.rows = wide.data(),
                                    .stride = width,
                                    .width = width,
                                    .factors = factors,
                                    .transposed = transposed,
                                    .scale = 1e-3f};
    const LoraRows<T> written = {.rows = wide.data(),
                                 .stride = width,
                                 .width = width,
                                 .factors = factors,
                                 .transposed = transposed,
                                 .scale = 1e-3f};
    const std::string factor = transposed ? "_b" : "_a";
    print("project" + factor, 1, [&] { LoraProject(read, 0, LoraRowBlocks(factors)); });
    print("expand" + factor, 2, [&] { LoraExpand(written, 0, LoraRowBlocks(factors)); });
    print("gradient" + factor, 1, [&] { LoraAddGradient(read, 0, LoraColumnPanels(factors, width)); });
  }
}

}  // namespace
}  // namespace weft::kernels

int main() {
  using weft::kernels::Bench;
  Bench<float>("f32_20x120x384_r8", 20, 120, 384, 8);
  Bench<float>("f32_1x480x384_r8", 1, 480, 384, 8);
  Bench<uint16_t>("bf16_20x120x384_r8", 20, 120, 384, 8);
  Bench<uint16_t>("bf16_1x480x384_r8", 1, 480, 384, 8);
  Bench<float>("f32_20x120x384_r16", 20, 120, 384, 16);
  Bench<float>("f32_4x500x2048_r16", 4, 500, 2048, 16);
  Bench<uint16_t>("bf16_4x500x2048_r16", 4, 500, 2048, 16);
  Bench<float>("f32_20x8x384_r8", 20, 8, 384, 8);
  Bench<float>("f32_20x120x384_r5", 20, 120, 384, 5);
}
