#include "kernels/fold.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/half.h"
#include "common/random.h"
#include "kernels/fold_reference.h"

namespace weft::kernels {
namespace {

constexpr uint64_t kMaxWeight = (uint64_t{1} << 29) - 1;
constexpr FoldFormat kFormats[] = {FoldFormat::kF32, FoldFormat::kBf16, FoldFormat::kF16, FoldFormat::kInt8,
                                   FoldFormat::kInt4};

struct Sum {
  std::vector<int64_t> hi;
  std::vector<int64_t> lo;
  bool operator==(const Sum&) const = default;
};

// What folds badly: zeros of both signs, the smallest numbers, halves of a unit of 2^-64, the limit, any exponent.
float AwkwardValue(Philox& random, float limit) {
  const float special[] = {
      0.0f,       -0.0f,      0x1p-149f, -0x1p-149f, 0x1.fffffep-127f,           0x1p-64f, 0x1p-65f, -0x1p-65f,
      0x1.8p-64f, 0x1.cp-64f, 1.0f,      -1.0f,      std::nextafter(limit, 0.0f)};
  if (random.NextBelow(2) == 0) return special[random.NextBelow(std::size(special))];
  const auto exponent = random.NextBelow(127 + std::ilogb(limit));
  return std::bit_cast<float>((random.Next() & 0x807fffff) | static_cast<uint32_t>(exponent) << 23);
}

// Updates of n values, with the buffers that their sources refer to.
struct Group {
  std::vector<std::vector<uint8_t>> values;
  std::vector<std::vector<float>> scales;
  std::vector<FoldSource> sources;
};

Group MakeGroup(FoldFormat format, size_t count, size_t n, float limit, Philox& random) {
  Group group;
  for (size_t k = 0; k < count; ++k) {
    std::vector<uint8_t> values(n * 4 + 4);
    for (size_t i = 0; i < n; ++i) {
      const float value = AwkwardValue(random, limit);
      // Of 16 bits, the upper half of an fp32 is below the limit too; f16 ends at 65504.
      const auto bf16 = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
      const auto f16 = static_cast<uint16_t>(random.NextBelow(2) << 15 | random.NextBelow(0x7c00));
      const auto code = static_cast<int>(random.NextBelow(255)) - 127;
      switch (format) {
        case FoldFormat::kF32:
          std::memcpy(values.data() + i * 4, &value, 4);
          break;
        case FoldFormat::kBf16:
          std::memcpy(values.data() + i * 2, &bf16, 2);
          break;
        case FoldFormat::kF16:
          std::memcpy(values.data() + i * 2, &f16, 2);
          break;
        case FoldFormat::kInt8:
          values[i] = static_cast<uint8_t>(code);
          break;
        case FoldFormat::kInt4:
          values[i / 2] |= static_cast<uint8_t>((code / 17 & 15) << (i % 2 * 4));
          break;
      }
    }
    std::vector<float> scales(n / kFoldBlock + 1);
    for (float& scale : scales) scale = std::fabs(AwkwardValue(random, limit / 128));
    group.values.push_back(std::move(values));
    group.scales.push_back(std::move(scales));
    const uint64_t weights[] = {1, 3, kMaxWeight, 1 + random.NextBelow(kMaxWeight), 1 + random.NextBelow(100)};
    group.sources.push_back({.values = group.values.back().data(),
                             .scales = group.scales.back().data(),
                             .weight = weights[random.NextBelow(5)],
                             .max_abs = limit});
  }
  return group;
}

Sum Start(size_t n, Philox& random) {
  Sum sum;
  for (size_t i = 0; i < n; ++i) {
    const uint64_t bits = random.Next() | static_cast<uint64_t>(random.Next()) << 32;
    sum.hi.push_back(static_cast<int64_t>(bits) >> 4);
    sum.lo.push_back(static_cast<int64_t>(bits << 8) >> 8);
  }
  return sum;
}

// Runs `body` on each SIMD target that this CPU has.
template <typename Body>
void OnEveryTarget(Body body) {
  hwy::SetSupportedTargetsForTest(0);
  const int64_t supported = hwy::SupportedTargets();
  for (int64_t rest = supported; rest != 0; rest &= rest - 1) {
    const int64_t target = rest & -rest;
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST(FoldTest, Fold_GivesTheReferencesBitsOnEveryTarget) {
  // 2^10: every weight makes the fast pass possible. 2^16: only those below 2^23.
  for (const float limit : {1024.0f, 65536.0f}) {
    for (const FoldFormat format : kFormats) {
      Philox random(static_cast<uint64_t>(format), static_cast<uint64_t>(limit));
      for (size_t n = 0; n <= 67; ++n) {
        const size_t count = 1 + random.NextBelow(9);
        const Group group = MakeGroup(format, count, n, format == FoldFormat::kF16 ? 65536.0f : limit, random);
        const Sum start = Start(n, random);
        Sum expected = start;
        FoldReference(format, group.sources.data(), count, n, expected.hi.data(), expected.lo.data());
        OnEveryTarget([&] {
          Sum sum = start;
          Fold(format, group.sources.data(), count, n, sum.hi.data(), sum.lo.data());
          EXPECT_EQ(sum, expected) << static_cast<int>(format) << " n=" << n;
        });
      }
    }
  }
}

TEST(FoldTest, Fold_OfTheMostSourcesOverSeveralBlocks) {
  constexpr size_t kSize = 3 * kFoldBlock + 5;
  for (const FoldFormat format : kFormats) {
    Philox random(7, static_cast<uint64_t>(format));
    const Group group = MakeGroup(format, kMostFoldSources, kSize, 65536.0f, random);
    Sum expected{std::vector<int64_t>(kSize), std::vector<int64_t>(kSize)};
    const Sum start = expected;
    FoldReference(format, group.sources.data(), kMostFoldSources, kSize, expected.hi.data(), expected.lo.data());
    OnEveryTarget([&] {
      Sum sum = start;
      Fold(format, group.sources.data(), kMostFoldSources, kSize, sum.hi.data(), sum.lo.data());
      EXPECT_EQ(sum, expected) << static_cast<int>(format);
    });
  }
}

TEST(FoldTest, Fold_AtTheLimitOfEachPassCarriesWhatItMust) {
  // The largest products of one sign, as often as one call allows: any limb that could overflow does.
  for (const auto& [value, weight] :
       {std::pair{std::nextafter(65536.0f, 0.0f), kMaxWeight},
        std::pair{std::nextafter(65536.0f, 0.0f), (uint64_t{1} << 24) - 1},
        std::pair{std::nextafter(65536.0f, 0.0f), uint64_t{1} << 23}, std::pair{0x1.fffffep-14f, uint64_t{1}}}) {
    for (const float sign : {1.0f, -1.0f}) {
      const std::vector<float> values(64, sign * value);
      const std::vector<FoldSource> sources(kMostFoldSources, {.values = values.data(), .weight = weight});
      Sum expected{std::vector<int64_t>(64), std::vector<int64_t>(64)};
      const Sum start = expected;
      FoldReference(FoldFormat::kF32, sources.data(), sources.size(), 64, expected.hi.data(), expected.lo.data());
      OnEveryTarget([&] {
        Sum sum = start;
        Fold(FoldFormat::kF32, sources.data(), sources.size(), 64, sum.hi.data(), sum.lo.data());
        EXPECT_EQ(sum, expected) << values[0];
      });
    }
  }
}

TEST(FoldTest, Quotients_GiveTheReferencesBitsOnEveryTarget) {
  Philox random(3, 4);
  for (const uint64_t weight : {uint64_t{1}, uint64_t{2}, uint64_t{3}, uint64_t{2011}, (uint64_t{1} << 38) - 1}) {
    Sum sum = Start(4096, random);
    // The middle between two fp32, and a unit beside it, where fp64 can't tell them apart; small ones; zero.
    for (size_t i = 0; i < 4096; i += 2) {
      const __int128 middle = (0x1000001 + (random.NextBelow(0x800000) << 1)) * static_cast<__int128>(weight)
                              << random.NextBelow(50);
      const __int128 small = random.NextBelow(9);
      const __int128 value =
          (i % 8 == 0 ? small : middle + random.NextBelow(3) - 1) * (random.NextBelow(2) == 0 ? 1 : -1);
      sum.hi[i] = static_cast<int64_t>((value + (__int128{1} << 55)) >> 56);
      sum.lo[i] = static_cast<int64_t>(value - (static_cast<__int128>(sum.hi[i]) << 56));
    }
    std::vector<float> expected;
    for (size_t i = 0; i < 4096; ++i) expected.push_back(QuotientF32(sum.hi[i], sum.lo[i], weight));
    OnEveryTarget([&] {
      std::vector<float> found(4096 - 3);
      Quotients(sum.hi.data() + 3, sum.lo.data() + 3, found.size(), weight, found.data());
      EXPECT_EQ(std::memcmp(found.data(), expected.data() + 3, found.size() * 4), 0) << weight;
    });
  }
}

TEST(FoldReferenceTest, AddProduct_RoundsToUnitsAndKeepsTheLimbsUnique) {
  struct Case {
    float value;
    uint64_t weight;
    int64_t hi;
    int64_t lo;
  };
  for (const Case& c : {Case{1.0f, 1, 256, 0}, Case{-1.0f, 3, -768, 0}, Case{0x1p-9f, 1, 1, -(int64_t{1} << 55)},
                        Case{-0x1p-9f, 1, 0, -(int64_t{1} << 55)}, Case{0x1p-64f, 5, 0, 5}, Case{0x1p-65f, 1, 0, 0},
                        Case{0x1p-65f, 3, 0, 2}, Case{-0x1.8p-64f, 1, 0, -2}, Case{0x1p-149f, kMaxWeight, 0, 0}}) {
    int64_t hi = 0;
    int64_t lo = 0;
    AddProduct(c.value, c.weight, &hi, &lo);
    EXPECT_EQ(hi, c.hi) << c.value;
    EXPECT_EQ(lo, c.lo) << c.value;
  }
}

TEST(FoldReferenceTest, QuotientF64_IsTheNearestDouble) {
  EXPECT_EQ(QuotientF64(256, 0, 3), 1.0 / 3);
  EXPECT_EQ(QuotientF64(0, 1, (uint64_t{1} << 38) - 1), 0x1p-64 / 274877906943.0);
  EXPECT_EQ(QuotientF64(-256, 1, 1), -1.0);                           // 2^-64 is less than half a place
  EXPECT_EQ(QuotientF64(-256, int64_t{1} << 12, 1), -1.0 + 0x1p-52);  // ... and 2^-52 two
  EXPECT_EQ(QuotientF64(256, 1 << 11, 1), 1.0);                       // a tie, to even
  EXPECT_EQ(QuotientF64(256, (1 << 11) + 1, 1), 1.0 + 0x1p-52);
}

}  // namespace
}  // namespace weft::kernels
