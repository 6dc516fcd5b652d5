#include "kernels/losses/cross_entropy.h"

#include <gtest/gtest.h>

#include <array>

#include "kernels/norm/testing.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weft::kernels {
namespace {

#define WEFT_KERNELS "kernels/losses/cross_entropy.inc"
#include "kernels/norm/targets.inc"

template <typename T>
void Run(Target target, const CrossEntropyRows<T>& rows, int64_t begin, int64_t end) {
  WEFT_CALL(target, CrossEntropy<T>, rows, begin, end);
}

// Measured: losses 1e-7, gradients 1e-7; bf16 gradients 1.6e-3, of which rounding the result is all.
constexpr double kLossTolerance = 5e-7;
template <typename T>
constexpr double kTolerance = sizeof(T) == 4 ? 5e-7 : 3e-3;

constexpr int64_t kRows = 4;

template <typename T>
struct Case {
  explicit Case(int64_t width, float smoothing) : width(width), smoothing(smoothing) {
    for (int64_t row = 0; row < kRows; ++row) labels[row] = (row * 7 + 3) % width;
  }

  void Compute(Target target, int64_t begin = 0, int64_t end = kRows) {
    Run<T>(target,
           {logits.data(), width, labels.data(), losses.data(), correct.data(), gradient.data(), weights.data(),
            smoothing},
           begin, end);
  }

  int64_t width;
  float smoothing;
  std::vector<T> logits = Normal<T>("logits", kRows* width, 4);
  std::vector<int64_t> labels = std::vector<int64_t>(kRows);
  std::vector<float> weights = {0.5f, 1, 0.25f, 2};
  std::vector<T> gradient = std::vector<T>(kRows * width);
  std::vector<float> losses = std::vector<float>(kRows);
  std::array<bool, kRows> correct = {};
};

template <typename T>
class CrossEntropyKernelTest : public testing::Test {};
using Elements = testing::Types<float, uint16_t>;
TYPED_TEST_SUITE(CrossEntropyKernelTest, Elements);

template <typename F>
void ForEachTarget(const F& f) {
  for (int target = 0; target <= static_cast<int>(kBestTarget); ++target) {
    SCOPED_TRACE(target);
    f(static_cast<Target>(target));
  }
}

TYPED_TEST(CrossEntropyKernelTest, EqualsTheFormula) {
  ForEachTarget([&](Target target) {
    for (const int64_t width : {1, 2, 15, 16, 77, 200}) {
      for (const float smoothing : {0.0f, 0.1f}) {
        Case<TypeParam> found(width, smoothing);
        found.Compute(target);
        std::vector<double> losses, gradient;
        for (int64_t row = 0; row < kRows; ++row) {
          const TypeParam* x = found.logits.data() + row * width;
          double total = 0;
          int64_t best = 0;
          for (int64_t j = 0; j < width; ++j) {
            total += std::exp(ToFloat(x[j]));
            if (ToFloat(x[j]) > ToFloat(x[best])) best = j;
          }
          losses.push_back(std::log(total) - ToFloat(x[found.labels[row]]));
          EXPECT_EQ(found.correct[row], best == found.labels[row]);
          for (int64_t j = 0; j < width; ++j) {
            const double wanted = smoothing / width + (j == found.labels[row] ? 1 - smoothing : 0);
            gradient.push_back(found.weights[row] * (std::exp(ToFloat(x[j])) / total - wanted));
          }
        }
        EXPECT_LE(LargestError(found.losses, losses), kLossTolerance);
        EXPECT_LE(LargestError(found.gradient, gradient), kTolerance<TypeParam>);
        losses[0] += 1e-4;
        gradient[0] += 2e-2;
        EXPECT_GT(LargestError(found.losses, losses), kLossTolerance);
        EXPECT_GT(LargestError(found.gradient, gradient), kTolerance<TypeParam>);
      }
    }
  });
}

TYPED_TEST(CrossEntropyKernelTest, AnySplitAndInPlace_GiveTheSameBits) {
  ForEachTarget([&](Target target) {
    Case<TypeParam> whole(77, 0.1f), split(77, 0.1f), in_place(77, 0.1f);
    whole.Compute(target);
    for (const auto& [begin, end] : {std::pair{3, 4}, {0, 2}, {2, 3}}) split.Compute(target, begin, end);
    Run<TypeParam>(target,
                   {in_place.logits.data(), 77, in_place.labels.data(), in_place.losses.data(), in_place.correct.data(),
                    in_place.logits.data(), in_place.weights.data(), 0.1f},
                   0, kRows);
    EXPECT_EQ(whole.gradient, split.gradient);
    EXPECT_EQ(whole.losses, split.losses);
    EXPECT_EQ(whole.gradient, in_place.logits);
    EXPECT_EQ(whole.losses, in_place.losses);
    EXPECT_EQ(whole.correct, in_place.correct);
  });
}

TYPED_TEST(CrossEntropyKernelTest, ExtremeLogits_StayFiniteAndNanShows) {
  ForEachTarget([&](Target target) {
    Case<TypeParam> rows(19, 0);
    const auto set = [&](int64_t row, int64_t column, float value) {
      rows.logits[row * 19 + column] = FromFloat<TypeParam>(value);
    };
    for (int64_t j = 0; j < 19; ++j) {
      set(0, j, 1024);
      set(1, j, j % 2 == 0 ? -INFINITY : 0);
      set(2, j, 0);
    }
    set(2, rows.labels[2], -1e30f);
    set(3, 18, NAN);
    rows.Compute(target);
    EXPECT_NEAR(rows.losses[0], std::log(19), 5e-6);
    EXPECT_EQ(rows.labels[1] % 2, 0);
    EXPECT_EQ(rows.losses[1], INFINITY);
    EXPECT_EQ(ToFloat(rows.gradient[19]), 0);
    EXPECT_NEAR(rows.losses[2], 1e30, 1e28);
    EXPECT_TRUE(std::isnan(rows.losses[3]));
    EXPECT_TRUE(std::isnan(ToFloat(rows.gradient[3 * 19])));
  });
}

TYPED_TEST(CrossEntropyKernelTest, RowsOfNobodyAndWithoutWeight_HaveNoGradient) {
  ForEachTarget([&](Target target) {
    Case<TypeParam> rows(19, 0.1f);
    rows.labels[1] = -1;
    rows.weights[2] = 0;
    rows.logits[2 * 19] = FromFloat<TypeParam>(NAN);
    rows.Compute(target);
    EXPECT_EQ(rows.losses[1], 0);
    EXPECT_FALSE(rows.correct[1]);
    for (int64_t i = 19; i < 3 * 19; ++i) EXPECT_EQ(ToFloat(rows.gradient[i]), 0);
    EXPECT_NE(ToFloat(rows.gradient[0]), 0);
  });
}

TYPED_TEST(CrossEntropyKernelTest, OfEqualLogits_TheFirstIsTheAnswer) {
  ForEachTarget([&](Target target) {
    Case<TypeParam> rows(40, 0);
    for (int64_t row = 0; row < kRows; ++row) {
      for (const int64_t j : {5, 21, 38}) rows.logits[row * 40 + j] = FromFloat<TypeParam>(64);
    }
    rows.labels = {5, 21, 38, 0};
    rows.Compute(target);
    EXPECT_EQ(rows.correct, (std::array<bool, kRows>{true, false, false, false}));
  });
}

}  // namespace
}  // namespace weft::kernels
