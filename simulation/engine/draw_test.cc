#include "simulation/engine/draw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

namespace weft::simulation {
namespace {

bool Everybody(int64_t) { return true; }

TEST(DrawUniformTest, EachIsAsLikely) {
  // Few of many, most of few, and few accepted of many take different ways.
  for (const auto& [count, size, every] : {std::tuple<int64_t, int64_t, int64_t>{3, 12, 1}, {9, 12, 1}, {2, 400, 40}}) {
    const Accepts accepts = [every = every](int64_t client) { return client % every == 0; };
    std::map<int64_t, int> hits;
    constexpr int kDraws = 6'000;
    for (uint64_t seed = 0; seed < kDraws; ++seed) {
      Philox random(seed, 1);
      const std::vector<int64_t> drawn = DrawUniform(count, size, accepts, random);
      ASSERT_EQ(drawn.size(), count);
      for (size_t i = 0; i < drawn.size(); ++i) {
        ASSERT_TRUE(accepts(drawn[i]));
        ASSERT_TRUE(i == 0 || drawn[i - 1] < drawn[i]);
        ++hits[drawn[i]];
      }
    }
    const double accepted = static_cast<double>(size) / static_cast<double>(every);
    const double expected = kDraws * static_cast<double>(count) / accepted;
    EXPECT_EQ(hits.size(), accepted);
    for (const auto& [client, times] : hits) EXPECT_NEAR(times, expected, 5 * std::sqrt(expected)) << client;
  }
}

TEST(DrawUniformTest, AllWhenThereAreNoMore) {
  Philox random(1, 1);
  const Accepts few = [](int64_t client) { return client == 7 || client == 900; };
  EXPECT_EQ(DrawUniform(3, 1'000, few, random), (std::vector<int64_t>{7, 900}));
  EXPECT_EQ(DrawUniform(3, 2, Everybody, random), (std::vector<int64_t>{0, 1}));
}

TEST(DrawUniformTest, LooksAtFewOfAMillion) {
  int64_t looks = 0;
  Philox random(1, 1);
  DrawUniform(
      100, 1'000'000,
      [&](int64_t client) {
        ++looks;
        return client % 2 == 0;
      },
      random);
  EXPECT_LT(looks, 300);
}

TEST(DrawPoissonTest, EachIndependentlyWithTheRate) {
  std::map<int64_t, int> hits;
  int both = 0;
  constexpr int kDraws = 5'000;
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    Philox random(seed, 1);
    const std::vector<int64_t> drawn = DrawPoisson(0.3, 10, Everybody, random);
    const std::set<int64_t> set(drawn.begin(), drawn.end());
    ASSERT_EQ(set.size(), drawn.size());
    for (const int64_t client : drawn) ++hits[client];
    both += set.contains(3) && set.contains(4) ? 1 : 0;
  }
  for (const auto& [client, times] : hits) EXPECT_NEAR(times, 0.3 * kDraws, 160) << client;
  EXPECT_NEAR(both, 0.09 * kDraws, 100);
}

TEST(DrawPoissonTest, RateOneIsAllThatAreAccepted) {
  Philox random(1, 1);
  EXPECT_EQ(DrawPoisson(
                1, 4, [](int64_t client) { return client != 2; }, random),
            (std::vector<int64_t>{0, 1, 3}));
}

}  // namespace
}  // namespace weft::simulation
