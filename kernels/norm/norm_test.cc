#include "kernels/norm/norm.h"

#include <gtest/gtest.h>

#include "kernels/norm/testing.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weft::kernels {
namespace {

#define WEFT_KERNELS "kernels/norm/norm.inc"
#include "kernels/norm/targets.inc"

template <typename T>
void RunForward(Target target, const NormWeights& weights, const NormForwardRows<T>& rows, int64_t begin, int64_t end) {
  WEFT_CALL(target, Forward<T>, weights, rows, begin, end);
}

template <typename T>
void RunBackward(Target target, const NormWeights& weights, const NormBackwardRows<T>& rows, int64_t begin,
                 int64_t end) {
  WEFT_CALL(target, Backward<T>, weights, rows, begin, end);
}

// Measured: fp32 2.3e-7 forward, 3.5e-7 backward; bf16 3e-3, of which rounding the result is all.
template <typename T>
constexpr double kTolerance = sizeof(T) == 4 ? 1e-6 : 5e-3;
// A change of all results that must show.
template <typename T>
constexpr double kPerturbation = sizeof(T) == 4 ? 2e-5 : 2e-2;

constexpr int64_t kRows = 5;

// Rows and weights of a norm, and what it makes of them.
template <typename T>
struct Rows {
  explicit Rows(int64_t width, bool rms, bool with_residual)
      : width(width),
        weight(Normal<float>("weight", width, 0.3, 1)),
        bias(Normal<float>("bias", width)),
        x(Normal<T>("x", kRows * width, 2, 0.5)),
        residual(Normal<T>("residual", kRows * width)),
        weights{weight.data(), rms ? nullptr : bias.data(), width, 1e-5f, rms},
        with_residual(with_residual) {}

  void Forward(Target target, int64_t begin = 0, int64_t end = kRows) {
    const NormForwardRows<T> rows = {{x.data(), width},   {with_residual ? residual.data() : nullptr, width},
                                     {sum.data(), width}, {out.data(), width},
                                     mean.data(),         rstd.data()};
    RunForward(target, weights, rows, begin, end);
  }

  void Backward(Target target, bool of_sum, int64_t begin = 0, int64_t end = kRows) {
    const NormBackwardRows<T> rows = {{with_residual ? sum.data() : x.data(), width},
                                      mean.data(),
                                      rstd.data(),
                                      {out_gradient.data(), width},
                                      {of_sum ? sum_gradient.data() : nullptr, width},
                                      {gradient.data(), width}};
    RunBackward(target, weights, rows, begin, end);
  }

  // What is normalised.
  std::vector<double> Input() const {
    std::vector<double> input(x.size());
    for (size_t i = 0; i < input.size(); ++i) {
      input[i] = with_residual ? ToFloat(FromFloat<T>(ToFloat(x[i]) + ToFloat(residual[i]))) : ToFloat(x[i]);
    }
    return input;
  }

  // The formula in fp64.
  std::vector<double> Expected(const std::vector<double>& input) const {
    std::vector<double> expected(input.size());
    for (size_t begin = 0; begin < input.size(); begin += width) {
      double mean = 0, square = 0;
      for (int64_t i = 0; i < width; ++i) mean += input[begin + i] / static_cast<double>(width);
      if (weights.rms) mean = 0;
      for (int64_t i = 0; i < width; ++i) square += std::pow(input[begin + i] - mean, 2) / static_cast<double>(width);
      for (int64_t i = 0; i < width; ++i) {
        expected[begin + i] = (input[begin + i] - mean) / std::sqrt(square + weights.epsilon) * weight[i];
        if (!weights.rms) expected[begin + i] += bias[i];
      }
    }
    return expected;
  }

  // That of the sum of results times out_gradient, by differences.
  std::vector<double> ExpectedGradient(bool of_sum) const {
    constexpr double kStep = 1e-5;
    const std::vector<double> input = Input();
    std::vector<double> expected(input.size());
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < width; ++i) {
        std::vector<double> up(input.begin() + row * width, input.begin() + (row + 1) * width), down = up;
        up[i] += kStep;
        down[i] -= kStep;
        const std::vector<double> above = Expected(up), below = Expected(down);
        double& sum = expected[row * width + i];
        if (of_sum) sum = ToFloat(sum_gradient[row * width + i]);
        for (int64_t j = 0; j < width; ++j) {
          sum += (above[j] - below[j]) / (2 * kStep) * ToFloat(out_gradient[row * width + j]);
        }
      }
    }
    return expected;
  }

  int64_t width;
  std::vector<float> weight, bias;
  std::vector<T> x, residual;
  NormWeights weights;
  bool with_residual;
  std::vector<T> out_gradient = Normal<T>("out", kRows*width), sum_gradient = Normal<T>("sum", kRows*width);
  std::vector<T> sum = std::vector<T>(x.size()), out = sum, gradient = sum;
  std::vector<float> mean = std::vector<float>(kRows), rstd = mean;
};

template <typename T>
class NormKernelTest : public testing::Test {};
using Elements = testing::Types<float, uint16_t>;
TYPED_TEST_SUITE(NormKernelTest, Elements);

// f(target, width, rms, with_residual) for all that there is.
template <typename F>
void ForEachCase(const F& f) {
  for (int target = 0; target <= static_cast<int>(kBestTarget); ++target) {
    for (const int64_t width : {1, 2, 16, 17, 33, 64, 100, 384}) {
      for (const int flags : {0, 1, 2, 3}) {
        SCOPED_TRACE(testing::Message() << "target " << target << " width " << width << " flags " << flags);
        f(static_cast<Target>(target), width, (flags & 1) != 0, (flags & 2) != 0);
      }
    }
  }
}

TYPED_TEST(NormKernelTest, Forward_EqualsTheFormula) {
  ForEachCase([&](Target target, int64_t width, bool rms, bool with_residual) {
    Rows<TypeParam> rows(width, rms, with_residual);
    rows.Forward(target);
    std::vector<double> expected = rows.Expected(rows.Input());
    EXPECT_LE(LargestError(rows.out, expected), kTolerance<TypeParam>);
    if (with_residual) {
      EXPECT_EQ(LargestError(rows.sum, rows.Input()), 0);
    }
    for (double& value : expected) value += kPerturbation<TypeParam> * (1 + std::abs(value));
    EXPECT_GT(LargestError(rows.out, expected), kTolerance<TypeParam>);
  });
}

TYPED_TEST(NormKernelTest, Backward_EqualsDifferences) {
  ForEachCase([&](Target target, int64_t width, bool rms, bool with_residual) {
    // A row of one has no variance: its gradient is 0 but for rounding times 1 / sqrt(epsilon).
    if (width > 100 || width == 1) return;
    Rows<TypeParam> rows(width, rms, with_residual);
    rows.Forward(target);
    for (const bool of_sum : {false, true}) {
      rows.Backward(target, of_sum);
      std::vector<double> expected = rows.ExpectedGradient(of_sum);
      EXPECT_LE(LargestError(rows.gradient, expected), kTolerance<TypeParam>);
      for (double& value : expected) value += kPerturbation<TypeParam> * (1 + std::abs(value));
      EXPECT_GT(LargestError(rows.gradient, expected), kTolerance<TypeParam>);
    }
  });
}

TYPED_TEST(NormKernelTest, AnySplit_GivesTheSameBits) {
  ForEachCase([](Target target, int64_t width, bool rms, bool with_residual) {
    Rows<TypeParam> whole(width, rms, with_residual), split = whole;
    split.weights = {split.weight.data(), rms ? nullptr : split.bias.data(), width, 1e-5f, rms};
    whole.Forward(target);
    whole.Backward(target, /*of_sum=*/true);
    for (const auto& [begin, end] : {std::pair{2, 5}, {0, 1}, {1, 2}}) split.Forward(target, begin, end);
    for (const auto& [begin, end] : {std::pair{3, 5}, {0, 3}}) split.Backward(target, /*of_sum=*/true, begin, end);
    EXPECT_EQ(whole.out, split.out);
    EXPECT_EQ(whole.rstd, split.rstd);
    EXPECT_EQ(whole.gradient, split.gradient);
  });
}

TYPED_TEST(NormKernelTest, Strides_LeaveWhatLiesBetween) {
  constexpr int64_t kWidth = 20, kStride = 27;
  Rows<TypeParam> dense(kWidth, /*rms=*/false, /*with_residual=*/true);
  dense.Forward(kBestTarget);
  const auto spread = [&](const std::vector<TypeParam>& values) {
    std::vector<TypeParam> result(kRows * kStride, FromFloat<TypeParam>(9));
    for (int64_t i = 0; i < kRows * kWidth; ++i) result[i / kWidth * kStride + i % kWidth] = values[i];
    return result;
  };
  const std::vector<TypeParam> x = spread(dense.x), residual = spread(dense.residual);
  std::vector<TypeParam> sum(kRows * kStride, FromFloat<TypeParam>(9)), out = sum;
  NormForward<TypeParam>(
      dense.weights,
      {{x.data(), kStride}, {residual.data(), kStride}, {sum.data(), kStride}, {out.data(), kStride}, nullptr, nullptr},
      0, kRows);
  EXPECT_EQ(out, spread(dense.out));
  EXPECT_EQ(sum, spread(dense.sum));
}

TYPED_TEST(NormKernelTest, ExtremeRows_StayApart) {
  constexpr int64_t kWidth = 40;
  Rows<TypeParam> rows(kWidth, /*rms=*/false, /*with_residual=*/false);
  const std::vector<TypeParam> ordinary = rows.x;
  rows.Forward(kBestTarget);
  const std::vector<TypeParam> expected = rows.out;
  for (int64_t i = 0; i < kWidth; ++i) {
    rows.x[i] = FromFloat<TypeParam>(3);                                              // no variance
    rows.x[kWidth + i] = FromFloat<TypeParam>(1e4f + (i % 2 == 0 ? 64.0f : -64.0f));  // a large mean
    rows.x[2 * kWidth + i] = FromFloat<TypeParam>(i == 7 ? NAN : 1);
  }
  rows.Forward(kBestTarget);
  for (int64_t i = 0; i < kWidth; ++i) {
    EXPECT_EQ(ToFloat(rows.out[i]), ToFloat(FromFloat<TypeParam>(rows.bias[i])));
    const float side = i % 2 == 0 ? 1.0f : -1.0f;
    EXPECT_NEAR(ToFloat(rows.out[kWidth + i]), side * rows.weight[i] + rows.bias[i],
                sizeof(TypeParam) == 4 ? 1e-4 : 2e-2);
    EXPECT_TRUE(std::isnan(ToFloat(rows.out[2 * kWidth + i])));
  }
  EXPECT_TRUE(std::equal(rows.out.begin() + 3 * kWidth, rows.out.end(), expected.begin() + 3 * kWidth));
}

TEST(VectorsTest, Bf16_RoundsToNearestEven) {
  // With width 1 and rms a norm of weight w is w: any fp32 can be had as the bits of a weight.
  for (int target = 0; target <= static_cast<int>(kBestTarget); ++target) {
    for (const float value : {1.0f, 1.00390625f, 1.01171875f, 1.003906369f, -3.1415926f, 3.4e38f, 1e-37f, INFINITY}) {
      const NormWeights weights = {&value, nullptr, 1, 0, /*rms=*/true};
      const uint16_t one = ToBf16(1);
      uint16_t out = 0;
      RunForward<uint16_t>(static_cast<Target>(target), weights, {{&one, 1}, {}, {}, {&out, 1}, nullptr, nullptr}, 0,
                           1);
      EXPECT_EQ(out, ToBf16(value)) << value << " on target " << target;
    }
  }
}

}  // namespace
}  // namespace weft::kernels
