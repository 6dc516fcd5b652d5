#include "common/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace weft {
namespace {

using Words = std::array<uint32_t, 4>;

// Known answers of Random123 (kat_vectors, philox4x32 10).
TEST(PhiloxTest, Block_KnownAnswers) {
  EXPECT_EQ(Philox(0, 0).Block(0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint64_t kOnes = ~uint64_t{0};
  EXPECT_EQ(Philox(kOnes, kOnes).Block(kOnes), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // Counter words 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0: the digits of pi.
  EXPECT_EQ(Philox(0x299f31d0a4093822, 0x0370734413198a2e).Block(0x85a308d3243f6a88),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, Next_IsTheWordsOfTheBlocksInOrder) {
  Philox random(7, 9);
  for (uint64_t block = 0; block < 3; ++block) {
    for (const uint32_t word : Philox(7, 9).Block(block)) EXPECT_EQ(random.Next(), word);
  }
}

TEST(PhiloxTest, Next_SeedsAndStreamsDiffer) {
  const Words base = Philox(1, 1).Block(0);
  EXPECT_NE(Philox(2, 1).Block(0), base);
  EXPECT_NE(Philox(1, 2).Block(0), base);
  EXPECT_NE(Philox(uint64_t{1} << 32 | 1, 1).Block(0), base);
  EXPECT_NE(Philox(1, uint64_t{1} << 32 | 1).Block(0), base);
}

TEST(PhiloxTest, NextFloat_IsUniformBelowOne) {
  Philox random(1, StreamId("float"));
  double sum = 0;
  for (int i = 0; i < 100'000; ++i) {
    const float value = random.NextFloat();
    ASSERT_GE(value, 0.0f);
    ASSERT_LT(value, 1.0f);
    sum += value;
  }
  EXPECT_NEAR(sum / 100'000, 0.5, 0.005);  // 5 standard errors
}

TEST(PhiloxTest, NextDouble_FillsItsTenthsEvenly) {
  Philox random(1, StreamId("double"));
  std::vector<int> tenths(10);
  for (int i = 0; i < 100'000; ++i) {
    const double value = random.NextDouble();
    ASSERT_GE(value, 0.0);
    ASSERT_LT(value, 1.0);
    ++tenths[static_cast<size_t>(value * 10)];
  }
  for (const int count : tenths) EXPECT_NEAR(count, 10'000, 475);  // 5 standard deviations
}

TEST(PhiloxTest, NextDouble_UsesBothWords) {
  const Words words = Philox(3, 4).Block(0);
  const uint64_t bits = uint64_t{words[0] >> 5} << 26 | words[1] >> 6;
  EXPECT_EQ(Philox(3, 4).NextDouble(), std::ldexp(static_cast<double>(bits), -53));
}

TEST(PhiloxTest, NextNormal_HasTheMomentsOfANormal) {
  Philox random(1, StreamId("normal"));
  constexpr int kDraws = 200'000;
  double sum = 0, squares = 0, fourths = 0;
  int beyond = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double value = random.NextNormal();
    ASSERT_TRUE(std::isfinite(value));
    sum += value;
    squares += value * value;
    fourths += value * value * value * value;
    beyond += std::abs(value) > 1.959964 ? 1 : 0;
  }
  // Five standard errors each: 1, sqrt(2), sqrt(96) and sqrt(0.05 * 0.95) over sqrt(kDraws).
  EXPECT_NEAR(sum / kDraws, 0, 0.0112);
  EXPECT_NEAR(squares / kDraws, 1, 0.0159);
  EXPECT_NEAR(fourths / kDraws, 3, 0.11);
  EXPECT_NEAR(static_cast<double>(beyond) / kDraws, 0.05, 0.0025);
}

TEST(PhiloxTest, NextBelow_IsEvenOverABoundThatDividesNoPowerOfTwo) {
  Philox random(1, StreamId("below"));
  std::vector<int> counts(7);
  for (int i = 0; i < 70'000; ++i) ++counts.at(random.NextBelow(7));
  for (const int count : counts) EXPECT_NEAR(count, 10'000, 465);  // 5 standard deviations
}

TEST(PhiloxTest, NextBelow_OneIsZero) {
  Philox random(1, 1);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(random.NextBelow(1), 0u);
}

// With a bound of 3/4 of 2^64, plain modulo would give the lowest third of the range half of all draws.
TEST(PhiloxTest, NextBelow_HugeBoundIsUnbiased) {
  constexpr uint64_t kBound = uint64_t{3} << 62;
  Philox random(1, StreamId("huge"));
  int low = 0;
  for (int i = 0; i < 30'000; ++i) {
    const uint64_t value = random.NextBelow(kBound);
    ASSERT_LT(value, kBound);
    low += value < kBound / 3 ? 1 : 0;
  }
  EXPECT_NEAR(low, 10'000, 410);  // 5 standard deviations
}

// Vectors of the FNV reference code.
TEST(PhiloxTest, StreamId_KnownVectors) {
  EXPECT_EQ(StreamId(""), 0xcbf29ce484222325u);
  EXPECT_EQ(StreamId("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(StreamId("foobar"), 0x85944171f73967e8u);
}

// Job seeds, rounds and attempts are small numbers: none of their mixtures may meet.
TEST(PhiloxTest, MixSeed_SmallValuesDoNotCollide) {
  std::set<uint64_t> seen;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    for (uint64_t value = 0; value < 200; ++value) EXPECT_TRUE(seen.insert(MixSeed(seed, value)).second);
  }
  EXPECT_NE(MixSeed(MixSeed(1, 2), 3), MixSeed(MixSeed(1, 3), 2));
}

TEST(PhiloxTest, MixSeed_OneBitTurnsAboutHalfOfTheBits) {
  for (int bit = 0; bit < 64; ++bit) {
    const uint64_t flip = uint64_t{1} << bit;
    EXPECT_NEAR(__builtin_popcountll(MixSeed(5, 6) ^ MixSeed(5 ^ flip, 6)), 32, 20) << bit;
    EXPECT_NEAR(__builtin_popcountll(MixSeed(5, 6) ^ MixSeed(5, 6 ^ flip)), 32, 20) << bit;
  }
}

}  // namespace
}  // namespace weft
