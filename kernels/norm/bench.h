#ifndef WEFT_KERNELS_NORM_BENCH_H_
#define WEFT_KERNELS_NORM_BENCH_H_

// For benchmarks of kernels that stream: GB/s, and what memcpy reaches on as many bytes in the same run.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace weft::kernels {

// Seconds of the best of many calls.
template <typename F>
double BestSeconds(const F& f) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9, spent = 0;
  for (int repeat = 0; repeat < 3 || spent < 0.1; ++repeat) {
    const Clock::time_point start = Clock::now();
    f();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::min(best, seconds);
    spent += seconds;
  }
  return best;
}

// `bytes` that f reads and writes in all.
template <typename F>
void PrintGigabytesPerSecond(const std::string& name, int64_t bytes, const F& f) {
  const double kernel = static_cast<double>(bytes) / BestSeconds(f) / 1e9;
  const std::vector<char> from(bytes / 2, 1);
  std::vector<char> to(bytes / 2);
  const double copy = static_cast<double>(bytes) / BestSeconds([&] {
                        std::memcpy(to.data(), from.data(), to.size());
                        asm volatile("" : : "r"(to.data()) : "memory");
                      }) /
                      1e9;
  std::printf("%s_gb_per_s=%.1f\n%s_over_memcpy=%.2f\n", name.c_str(), kernel, name.c_str(), kernel / copy);
}

}  // namespace weft::kernels

#endif  // WEFT_KERNELS_NORM_BENCH_H_
