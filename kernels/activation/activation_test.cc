#include "kernels/activation/activation.h"

#include <gtest/gtest.h>

#include "kernels/norm/testing.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace weft::kernels {
namespace {

#define WEFT_KERNELS "kernels/activation/activation.inc"
#include "kernels/norm/targets.inc"

template <typename T>
void RunForward(Target target, ActivationCurve curve, const T* x, T* out, int64_t count) {
  WEFT_CALL(target, Forward<T>, curve, x, out, count);
}
template <typename T>
void RunBackward(Target target, ActivationCurve curve, const T* x, const T* g, T* gradient, int64_t count) {
  WEFT_CALL(target, Backward<T>, curve, x, g, gradient, count);
}
template <typename T>
void RunGatedForward(Target target, ActivationCurve curve, const T* gate_up, int64_t width, T* out, int64_t end) {
  WEFT_CALL(target, GatedForward<T>, curve, gate_up, width, out, 0, end);
}
template <typename T>
void RunGatedBackward(Target target, ActivationCurve curve, const T* gate_up, int64_t width, const T* g, T* gradient,
                      int64_t end) {
  WEFT_CALL(target, GatedBackward<T>, curve, gate_up, width, g, gradient, 0, end);
}

constexpr ActivationCurve kCurves[] = {ActivationCurve::kIdentity, ActivationCurve::kRelu,     ActivationCurve::kTanh,
                                       ActivationCurve::kGelu,     ActivationCurve::kGeluTanh, ActivationCurve::kSilu};

// The formulas in fp64.
double Value(ActivationCurve curve, double x) {
  switch (curve) {
    case ActivationCurve::kIdentity:
      return x;
    case ActivationCurve::kRelu:
      return std::max(x, 0.0);
    case ActivationCurve::kTanh:
      return std::tanh(x);
    case ActivationCurve::kGelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case ActivationCurve::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ActivationCurve::kSilu:
      return x / (1 + std::exp(-x));
  }
  return 0;
}

double Slope(ActivationCurve curve, double x) {
  if (curve == ActivationCurve::kRelu) return x > 0 ? 1 : 0;
  const double step = 1e-5;
  return (Value(curve, x + step) - Value(curve, x - step)) / (2 * step);
}

// Measured in fp32: 3e-7 forward; backward, with gradients up to 4, 1.4e-6 (kGeluTanh) and 5e-7 (others). bf16: 2.9e-3,
// of which rounding the result is all.
template <typename T>
constexpr double kTolerance = sizeof(T) == 4 ? 2e-6 : 4e-3;
template <typename T>
constexpr double kPerturbation = sizeof(T) == 4 ? 1e-5 : 1e-2;

// All of -13 to 13 by 2^-9, and a tail that fills no vector.
template <typename T>
std::vector<T> Grid() {
  std::vector<T> grid;
  for (double x = -13; x <= 13; x += 1.0 / 512) grid.push_back(FromFloat<T>(static_cast<float>(x)));
  return grid;
}

template <typename F>
void ForEachCase(const F& f) {
  for (int target = 0; target <= static_cast<int>(kBestTarget); ++target) {
    for (const ActivationCurve curve : kCurves) {
      SCOPED_TRACE(testing::Message() << "target " << target << " curve " << static_cast<int>(curve));
      f(static_cast<Target>(target), curve);
    }
  }
}

template <typename T>
void ExpectNear(const std::vector<T>& found, std::vector<double> expected) {
  EXPECT_LE(LargestError(found, expected), kTolerance<T>);
  for (double& value : expected) value += kPerturbation<T> * (1 + std::abs(value));
  EXPECT_GT(LargestError(found, expected), kTolerance<T>);
}

template <typename T>
class ActivationKernelTest : public testing::Test {};
using Elements = testing::Types<float, uint16_t>;
TYPED_TEST_SUITE(ActivationKernelTest, Elements);

TYPED_TEST(ActivationKernelTest, ForwardAndBackward_EqualTheFormulas) {
  const std::vector<TypeParam> x = Grid<TypeParam>(), g = Normal<TypeParam>("gradient", static_cast<int64_t>(x.size()));
  const auto count = static_cast<int64_t>(x.size());
  ForEachCase([&](Target target, ActivationCurve curve) {
    std::vector<TypeParam> out(x.size()), gradient(x.size());
    RunForward(target, curve, x.data(), out.data(), count);
    RunBackward(target, curve, x.data(), g.data(), gradient.data(), count);
    std::vector<double> expected, expected_gradient;
    for (size_t i = 0; i < x.size(); ++i) {
      expected.push_back(Value(curve, ToFloat(x[i])));
      expected_gradient.push_back(ToFloat(g[i]) * Slope(curve, ToFloat(x[i])));
    }
    ExpectNear(out, expected);
    ExpectNear(gradient, expected_gradient);
  });
}

TEST(ActivationForwardTest, Gelu_IsWithinAMillionthOfErf) {
  const std::vector<float> x = Grid<float>();
  std::vector<float> out(x.size());
  ActivationForward(ActivationCurve::kGelu, x.data(), out.data(), static_cast<int64_t>(x.size()));
  double largest = 0, beyond = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = std::abs(out[i] - Value(ActivationCurve::kGelu, x[i]));
    (std::abs(x[i]) < 8 ? largest : beyond) = std::max(std::abs(x[i]) < 8 ? largest : beyond, error);
  }
  EXPECT_LE(largest, 1e-6);
  EXPECT_LE(beyond, 1e-14);
}

TEST(ActivationForwardTest, SmallNumbers_KeepTheirDigits) {
  for (const float x : {1e-3f, -1e-5f, 1e-12f, -1e-30f}) {
    for (const ActivationCurve curve : kCurves) {
      float out = 0;
      ActivationForward(curve, &x, &out, 1);
      const double expected = Value(curve, x);
      EXPECT_NEAR(out, expected, 1e-6 * std::abs(expected)) << static_cast<int>(curve) << " of " << x;
    }
  }
}

TYPED_TEST(ActivationKernelTest, ExtremeNumbers_GiveTheLimits) {
  constexpr float kLarge = 1e30f;
  for (const float size : {15.0f, 90.0f, 1e4f, kLarge}) {
    const TypeParam x[] = {FromFloat<TypeParam>(size), FromFloat<TypeParam>(-size), FromFloat<TypeParam>(NAN)};
    const TypeParam one[] = {FromFloat<TypeParam>(1), FromFloat<TypeParam>(1), FromFloat<TypeParam>(1)};
    ForEachCase([&](Target target, ActivationCurve curve) {
      TypeParam out[3], gradient[3];
      RunForward(target, curve, x, out, 3);
      RunBackward(target, curve, x, one, gradient, 3);
      const bool identity = curve == ActivationCurve::kIdentity, tanh = curve == ActivationCurve::kTanh;
      EXPECT_NEAR(ToFloat(out[0]) / (tanh ? 1 : ToFloat(x[0])), 1, 1e-6);
      EXPECT_NEAR(ToFloat(out[1]), identity ? ToFloat(x[1]) : tanh ? -1 : 0, 1e-5);
      EXPECT_TRUE(std::isnan(ToFloat(out[2])));
      EXPECT_NEAR(ToFloat(gradient[0]), tanh ? 0 : 1, 1e-5);
      EXPECT_NEAR(ToFloat(gradient[1]), identity ? 1 : 0, 1e-5);
    });
  }
}

TYPED_TEST(ActivationKernelTest, Gated_IsTheProduct) {
  constexpr int64_t kRows = 3;
  for (const int64_t width : {1, 16, 37}) {
    const std::vector<TypeParam> gate_up = Normal<TypeParam>("gate_up", kRows * 2 * width, 2);
    const std::vector<TypeParam> g = Normal<TypeParam>("gradient", kRows * width);
    ForEachCase([&](Target target, ActivationCurve curve) {
      std::vector<TypeParam> out(kRows * width), gradient(kRows * 2 * width);
      RunGatedForward(target, curve, gate_up.data(), width, out.data(), kRows);
      RunGatedBackward(target, curve, gate_up.data(), width, g.data(), gradient.data(), kRows);
      std::vector<double> expected(out.size()), expected_gradient(gradient.size());
      for (int64_t row = 0; row < kRows; ++row) {
        for (int64_t i = 0; i < width; ++i) {
          const double gate = ToFloat(gate_up[2 * row * width + i]), up = ToFloat(gate_up[2 * row * width + width + i]);
          const double of = ToFloat(g[row * width + i]);
          expected[row * width + i] = Value(curve, gate) * up;
          expected_gradient[2 * row * width + i] = of * up * Slope(curve, gate);
          expected_gradient[2 * row * width + width + i] = of * Value(curve, gate);
        }
      }
      ExpectNear(out, expected);
      ExpectNear(gradient, expected_gradient);
    });
  }
}

TYPED_TEST(ActivationKernelTest, AnySplit_GivesTheSameBits) {
  constexpr int64_t kCount = 1003;
  const std::vector<TypeParam> x = Normal<TypeParam>("x", kCount, 3), g = Normal<TypeParam>("gradient", kCount);
  ForEachCase([&](Target target, ActivationCurve curve) {
    std::vector<TypeParam> whole(kCount), split(kCount), gradient(kCount), split_gradient(kCount);
    RunForward(target, curve, x.data(), whole.data(), kCount);
    RunBackward(target, curve, x.data(), g.data(), gradient.data(), kCount);
    for (const auto& [begin, end] : {std::pair{0, 5}, {5, 500}, {500, 1003}}) {
      RunForward(target, curve, x.data() + begin, split.data() + begin, end - begin);
      RunBackward(target, curve, x.data() + begin, g.data() + begin, split_gradient.data() + begin, end - begin);
    }
    EXPECT_EQ(whole, split);
    EXPECT_EQ(gradient, split_gradient);
  });
}

}  // namespace
}  // namespace weft::kernels
