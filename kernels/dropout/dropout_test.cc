#include "kernels/dropout/dropout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/half.h"
#include "kernels/dropout/dropout_reference.h"

namespace weft::kernels {
namespace {

#define WEFT_KERNELS "kernels/dropout/dropout.inc"
#include "kernels/norm/targets.inc"

template <typename T>
void WriteOn(Target target, const DropoutMask& mask, const DropoutRows<const T>& x, const DropoutRows<T>& out,
             int64_t rows) {
  WEFT_CALL(target, Write<T>, mask, x, out, 0, rows);
}

template <typename T>
void AddOn(Target target, const DropoutMask& mask, const DropoutRows<const float>& x, const DropoutRows<T>& out,
           int64_t rows) {
  WEFT_CALL(target, Add<T>, mask, x, out, 0, rows);
}

std::vector<Target> Targets() {
  std::vector<Target> targets;
  for (const Target target : {Target::kBaseline, Target::kAvx2, Target::kAvx512, Target::kAvx512Bf16}) {
    if (target <= kBestTarget) targets.push_back(target);
  }
  return targets;
}

constexpr int64_t kRows = 5, kStride = 203;

TEST(DropoutTest, Dropout_ChoosesAsPhiloxDoes) {
  for (const Target target : Targets()) {
    for (const int64_t width : {1, 15, 64, 100, 200}) {
      const DropoutMask mask = {.seed = 0x1234567890abcdef, .stream = 0xfedcba0987654321, .width = width, .rate = 0.3};
      const std::vector<float> x(kRows * kStride, 2);
      std::vector<float> out(kRows * kStride, 9);
      WriteOn<float>(target, mask, {x.data(), kStride}, {out.data(), kStride}, kRows);
      for (int64_t i = 0; i < kRows; ++i) {
        for (int64_t c = 0; c < kStride; ++c) {
          const float expected = c >= width ? 9 : ReferenceKeeps(mask, i, c) ? 2 * static_cast<float>(1 / 0.7) : 0;
          ASSERT_EQ(out[i * kStride + c], expected) << "row " << i << ", column " << c << " of " << width;
        }
      }
    }
  }
}

TEST(DropoutTest, Dropout_Bf16IsRoundedOnce) {
  const DropoutMask mask = {.seed = 3, .stream = 4, .width = 100, .rate = 0.3};
  const std::vector<uint16_t> x(kRows * kStride, ToBf16(3));
  for (const Target target : Targets()) {
    std::vector<uint16_t> out(kRows * kStride), sum(kRows * kStride, ToBf16(1));
    WriteOn<uint16_t>(target, mask, {x.data(), kStride}, {out.data(), kStride}, kRows);
    const std::vector<float> threes(kRows * kStride, 3);
    AddOn<uint16_t>(target, mask, {threes.data(), kStride}, {sum.data(), kStride}, kRows);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t c = 0; c < 100; ++c) {
        const float expected = ReferenceKeeps(mask, i, c) ? 3 * static_cast<float>(1 / 0.7) : 0;
        ASSERT_EQ(out[i * kStride + c], ToBf16(expected));
        ASSERT_EQ(sum[i * kStride + c], ToBf16(1 + expected));
      }
    }
  }
}

TEST(DropoutTest, Dropout_AnySplitSameBits) {
  const DropoutMask mask = {.seed = 3, .stream = 4, .width = 200, .rate = 0.5};
  const std::vector<float> x(kRows * kStride, 1);
  std::vector<float> whole(x.size()), parts(x.size()), added(x.size());
  const auto run = [&](std::vector<float>& out, int64_t begin, int64_t end) {
    Dropout<float>(mask, {x.data(), kStride}, {out.data(), kStride}, begin, end);
  };
  run(whole, 0, kRows);
  for (const int64_t i : {3, 0, 4, 1, 2}) run(parts, i, i + 1);
  EXPECT_EQ(whole, parts);
  AddDropout<float>(mask, {x.data(), kStride}, {added.data(), kStride}, 0, kRows);
  EXPECT_EQ(whole, added);
}

std::vector<float> Kept(const DropoutMask& mask, int64_t rows) {
  const std::vector<float> ones(rows * mask.width, 1);
  std::vector<float> out(ones.size());
  Dropout<float>(mask, {ones.data(), mask.width}, {out.data(), mask.width}, 0, rows);
  return out;
}

TEST(DropoutTest, Dropout_OtherSeedOrStreamIsAnotherMask) {
  const DropoutMask mask = {.seed = 3, .stream = 4, .width = 64, .rate = 0.5};
  DropoutMask seed = mask, stream = mask;
  ++seed.seed;
  ++stream.stream;
  EXPECT_EQ(Kept(mask, 4), Kept(mask, 4));
  EXPECT_NE(Kept(mask, 4), Kept(seed, 4));
  EXPECT_NE(Kept(mask, 4), Kept(stream, 4));
}

// Of the whole, of each row and of each column, and of neighbours that are both dropped.
TEST(DropoutTest, Dropout_DropsAtItsRateIndependently) {
  for (const double rate : {0.1, 0.5, 0.95}) {
    constexpr int64_t kMany = 400;
    const DropoutMask mask = {.seed = 11, .stream = 5, .width = 320, .rate = rate};
    const std::vector<float> kept = Kept(mask, kMany);
    double dropped = 0, both = 0, worst = 0;
    std::vector<double> rows(kMany), columns(mask.width);
    for (int64_t i = 0; i < kMany; ++i) {
      for (int64_t c = 0; c < mask.width; ++c) {
        const bool drop = kept[i * mask.width + c] == 0;
        dropped += drop;
        rows[i] += drop;
        columns[c] += drop;
        both += drop && c + 1 < mask.width && kept[i * mask.width + c + 1] == 0;
      }
    }
    const double deviation = std::sqrt(rate * (1 - rate));
    for (const double sum : rows) {
      worst = std::max(worst, std::abs(sum - rate * 320) / (deviation * std::sqrt(320)));
    }
    for (const double sum : columns) {
      worst = std::max(worst, std::abs(sum - rate * kMany) / (deviation * std::sqrt(kMany)));
    }
    EXPECT_LT(worst, 5);
    EXPECT_NEAR(dropped / (kMany * 320), rate, 5 * deviation / std::sqrt(kMany * 320));
    EXPECT_NEAR(both / (kMany * 319), rate * rate, 5 * std::sqrt(2.0) * deviation / std::sqrt(kMany * 319));
  }
}

}  // namespace
}  // namespace weft::kernels
