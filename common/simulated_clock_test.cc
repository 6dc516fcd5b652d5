#include "common/simulated_clock.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(SimulatedClockTest, Now_StandsStillUntilAdvanced) {
  SimulatedClock clock(absl::FromUnixSeconds(5));
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(5));
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(5));
  clock.Advance(absl::Milliseconds(1500));
  EXPECT_EQ(clock.Now(), absl::FromUnixMillis(6500));
}

TEST(SimulatedClockTest, Now_ThroughTheInterface) {
  SimulatedClock simulated;
  const Clock& clock = simulated;
  const absl::Time start = clock.Now();
  simulated.Advance(absl::Hours(1));
  EXPECT_EQ(clock.Now() - start, absl::Hours(1));
}

}  // namespace
}  // namespace weft
