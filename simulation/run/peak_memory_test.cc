#include "simulation/run/peak_memory.h"

#include <gtest/gtest.h>

#include <vector>

namespace weft::simulation {
namespace {

constexpr int64_t kMuch = 200'000'000;

TEST(PeakMemoryTest, CountsWhatHasBeenGivenBack) {
  const int64_t before = PeakMemory();
  EXPECT_GT(before, 1'000'000);
  { const std::vector<char> much(kMuch, 1); }
  EXPECT_GT(PeakMemory(), before + kMuch / 2);
}

TEST(PeakMemoryTest, ResetBeginsAnew) {
  { const std::vector<char> much(kMuch, 1); }
  const int64_t before = PeakMemory();
  ResetPeakMemory();
  const int64_t after = PeakMemory();
  if (after == before) GTEST_SKIP() << "the kernel does not let it";
  EXPECT_LT(after, before - kMuch / 2);
}

}  // namespace
}  // namespace weft::simulation
