#include "server/net/work_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <vector>

namespace weft::server {
namespace {

TEST(WorkQueueTest, Post_OneThreadKeepsTheOrder) {
  std::vector<int> seen;
  WorkQueue queue(1);
  for (int i = 0; i < 100; ++i) queue.Post([&seen, i] { seen.push_back(i); });
  queue.Stop();
  ASSERT_EQ(seen.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(seen[i], i);
}

TEST(WorkQueueTest, Post_AThreadThatWaitsDoesNotHoldUpTheOthers) {
  WorkQueue queue(2);
  std::promise<void> release;
  queue.Post([&] { release.get_future().wait(); });
  queue.Post([&] { release.set_value(); });
  queue.Stop();
}

TEST(WorkQueueTest, Stop_DropsLaterWork) {
  std::atomic<int> runs = 0;
  WorkQueue queue(2);
  queue.Post([&] { ++runs; });
  queue.Stop();
  queue.Post([&] { ++runs; });
  queue.Stop();
  EXPECT_EQ(runs, 1);
}

}  // namespace
}  // namespace weft::server
