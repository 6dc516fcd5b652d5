#include "common/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace weft {
namespace {

std::vector<std::pair<int64_t, int64_t>> RangesOf(int threads, int64_t count) {
  std::mutex mutex;
  std::vector<std::pair<int64_t, int64_t>> ranges;
  ParallelFor(threads, count, [&](int64_t begin, int64_t end) {
    const std::lock_guard lock(mutex);
    ranges.emplace_back(begin, end);
  });
  std::sort(ranges.begin(), ranges.end());
  return ranges;
}

TEST(ParallelTest, ParallelFor_CoversEachIndexOnceInTheSameRangesEachTime) {
  for (const int threads : {-1, 1, 2, 3, 8}) {
    for (const int64_t count : {0, 1, 2, 7, 16, 17, 1000}) {
      const auto ranges = RangesOf(threads, count);
      int64_t next = 0;
      for (const auto& [begin, end] : ranges) {
        EXPECT_EQ(begin, next);
        EXPECT_LT(begin, end);
        next = end;
      }
      EXPECT_EQ(next, count) << threads;
      EXPECT_EQ(RangesOf(threads, count), ranges);
    }
  }
}

TEST(ParallelTest, ParallelFor_WorksOnSeveralThreadsAtOnce) {
  // Each range waits for the other: a single thread would never get past the first.
  std::atomic<int> arrived = 0;
  ParallelFor(2, 2, [&](int64_t, int64_t) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
  });
  EXPECT_EQ(arrived, 2);
}

TEST(ParallelTest, ParallelFor_InsideABodyAndFromManyThreadsNeverBlocks) {
  std::atomic<int64_t> total = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      ParallelFor(3, 20, [&](int64_t begin, int64_t end) {
        for (int64_t j = begin; j < end; ++j) ParallelFor(3, 10, [&](int64_t b, int64_t e) { total += e - b; });
      });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total, 4 * 20 * 10);
}

}  // namespace
}  // namespace weft
