// How many draws of noise a second one thread makes, from both sources.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "privacy/noise/gaussian.h"

namespace weft::privacy {
namespace {

void Measure(const char* name, NoiseSource& source) {
  constexpr int kDraws = 10'000'000;
  std::vector<__int128> noise(kDraws);
  const auto start = std::chrono::steady_clock::now();
  if (!source.Fill(1.5, noise).ok()) std::exit(1);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%s_seconds_for_10m=%.3f\n%s_million_per_s=%.2f\n", name, seconds, name, kDraws / seconds / 1e6);
}

}  // namespace
}  // namespace weft::privacy

int main() {
  weft::privacy::SecureNoise secure;
  weft::privacy::Measure("noise_secure", secure);
  weft::privacy::SeededNoise seeded(1, 1);
  weft::privacy::Measure("noise_seeded", seeded);
  return 0;
}
