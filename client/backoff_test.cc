#include "client/backoff.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(BackoffTest, Next_DoublesUpToMaxWithinHalfOfJitter) {
  Backoff backoff(absl::Milliseconds(100), absl::Seconds(1), /*seed=*/7);
  for (const int64_t full_ms : {100, 200, 400, 800, 1000, 1000}) {
    const absl::Duration wait = backoff.Next();
    EXPECT_GE(wait, absl::Milliseconds(full_ms) / 2);
    EXPECT_LE(wait, absl::Milliseconds(full_ms));
  }
}

TEST(BackoffTest, Reset_StartsAgainFromMin) {
  Backoff backoff(absl::Milliseconds(100), absl::Seconds(1), /*seed=*/7);
  for (int i = 0; i < 5; ++i) backoff.Next();
  backoff.Reset();
  EXPECT_LE(backoff.Next(), absl::Milliseconds(100));
}

TEST(BackoffTest, Next_DiffersBetweenSeeds) {
  Backoff first(absl::Seconds(1), absl::Seconds(1), /*seed=*/1);
  Backoff second(absl::Seconds(1), absl::Seconds(1), /*seed=*/2);
  EXPECT_NE(first.Next(), second.Next());
}

TEST(BackoffTest, Next_MaxBelowMinCountsAsMin) {
  Backoff backoff(absl::Seconds(2), absl::Seconds(1), /*seed=*/1);
  backoff.Next();
  EXPECT_GE(backoff.Next(), absl::Seconds(1));
}

}  // namespace
}  // namespace weft
