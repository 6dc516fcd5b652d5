#include "common/large_pages.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

namespace weft {
namespace {

TEST(LargePagesTest, AdviseLargePages_LeavesContentsAndNeighboursAlone) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{100'000}, size_t{4} << 20, (size_t{9} << 20) + 77}) {
    auto* const data = static_cast<char*>(std::calloc(bytes + 2, 1));
    ASSERT_NE(data, nullptr);
    data[0] = data[bytes + 1] = 'x';
    AdviseLargePages(data + 1, bytes);
    EXPECT_EQ(data[0], 'x');
    EXPECT_EQ(data[bytes + 1], 'x');
    for (size_t i = 1; i <= bytes; ++i) ASSERT_EQ(data[i], 0);
    std::memset(data + 1, 1, bytes);
    std::free(data);
  }
}

}  // namespace
}  // namespace weft
