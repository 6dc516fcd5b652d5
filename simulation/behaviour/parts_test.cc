#include "simulation/behaviour/parts.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <set>

namespace weft::simulation {
namespace {

TEST(PermutedTest, IsAPermutationOfAnySize) {
  for (const int64_t size : {1, 2, 3, 10, 64, 65, 1'000, 4'097}) {
    for (const uint64_t seed : {1, 2}) {
      std::set<int64_t> seen;
      for (int64_t i = 0; i < size; ++i) {
        const int64_t place = Permuted(i, size, seed);
        ASSERT_GE(place, 0);
        ASSERT_LT(place, size);
        ASSERT_TRUE(seen.insert(place).second) << size;
      }
    }
  }
}

TEST(PermutedTest, PutsEveryIndexEverywhere) {
  std::array<int, 5> counts{};
  for (uint64_t seed = 0; seed < 5'000; ++seed) ++counts[Permuted(2, 5, seed)];
  for (const int count : counts) EXPECT_NEAR(count, 1'000, 130);
}

TEST(PartOfTest, GroupsAreDisjointAndOfTheirSize) {
  const std::array<double, 2> parts = {0.2, 0.5};
  std::map<int, int> sizes;
  for (int64_t i = 0; i < 10; ++i) ++sizes[PartOf(i, 10, parts, 3)];
  EXPECT_EQ(sizes, (std::map<int, int>{{-1, 3}, {0, 2}, {1, 5}}));
}

TEST(PartOfTest, TheSeedChooses) {
  const std::array<double, 1> parts = {0.5};
  int differ = 0;
  for (int64_t i = 0; i < 100; ++i) differ += PartOf(i, 100, parts, 1) != PartOf(i, 100, parts, 2) ? 1 : 0;
  EXPECT_GT(differ, 25);
  EXPECT_EQ(PartOf(1, 100, {}, 1), -1);
}

}  // namespace
}  // namespace weft::simulation
