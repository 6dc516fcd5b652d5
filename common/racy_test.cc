// Two threads add to one counter without a lock: a data race on purpose, which the thread sanitizer must report.
#include <gtest/gtest.h>

#include <thread>

namespace weft {
namespace {

TEST(RacyTest, Increment_WithoutALock) {
  int counter = 0;
  const auto add = [&counter] {
    for (int i = 0; i < 1000; ++i) {
      counter = counter + 1;
      std::this_thread::yield();
    }
  };
  std::thread first(add);
  std::thread second(add);
  first.join();
  second.join();
  EXPECT_GT(counter, 0);  // how much is lost differs from run to run
}

}  // namespace
}  // namespace weft
