#include "common/available_memory.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(AvailableMemoryTest, IsSomethingOfThisMachine) {
  EXPECT_GT(AvailableMemory(), 1 << 20);
  EXPECT_LT(AvailableMemory(), int64_t{1} << 50);
}

}  // namespace
}  // namespace weft
