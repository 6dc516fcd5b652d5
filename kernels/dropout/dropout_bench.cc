// GB/s that dropout writes on one core, over 384 columns.
//   dropout_bench     prints <kernel>_gb_per_s=

#include <cstdio>
#include <vector>

#include "kernels/dropout/dropout.h"
#include "kernels/norm/bench.h"

namespace weft::kernels {
namespace {

template <typename T>
void Bench(const char* name) {
  constexpr int64_t kRows = 2000;
  const DropoutMask mask = {.seed = 1, .stream = 2, .width = 384, .rate = 0.1};
  const std::vector<T> x(kRows * mask.width);
  std::vector<T> out(x.size());
  const double seconds = BestSeconds([&] {
    Dropout<T>(mask, {x.data(), mask.width}, {out.data(), mask.width}, 0, kRows);
  });
  std::printf("dropout_%s_gb_per_s=%.2f\n", name, static_cast<double>(out.size() * sizeof(T)) / seconds / 1e9);
}

}  // namespace
}  // namespace weft::kernels

int main() {
  weft::kernels::Bench<float>("f32");
  weft::kernels::Bench<uint16_t>("bf16");
}
