#include "training/ops/activation.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>

#include "training/ops/composed.h"
#include "training/ops/testing/tensors.h"

namespace weft {
namespace {

constexpr Activation kAll[] = {Activation::kNone, Activation::kRelu,     Activation::kTanh,
                               Activation::kGelu, Activation::kGeluTanh, Activation::kSilu};

// Measured: 1.5e-6 in fp32, 3.6e-3 in bf16, of which rounding results is all.
double Tolerance(at::ScalarType type) { return type == at::kFloat ? 3e-6 : 6e-3; }

class ActivationTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  ActivationTest() { at::manual_seed(6); }
};
INSTANTIATE_TEST_SUITE_P(Types, ActivationTest, testing::Values(at::kFloat, at::kBFloat16));

TEST_P(ActivationTest, Activate_EqualsAutograd) {
  for (const Activation activation : kAll) {
    for (const auto& [rows, width] : std::vector<std::pair<int64_t, int64_t>>{{60, 385}, {1, 1}, {0, 4}}) {
      ExpectSame([&](const Tensors& in) { return Tensors{Activate(in[0] * 1, activation)}; },
                 [&](const Tensors& in) { return Tensors{ComposedActivation(in[0], activation)}; },
                 {at::randn({rows, width}) * 3}, GetParam(), Tolerance(GetParam()));
    }
  }
}

TEST_P(ActivationTest, ActivateGated_EqualsAutograd) {
  for (const Activation activation : kAll) {
    for (const auto& [rows, width] : std::vector<std::pair<int64_t, int64_t>>{{60, 385}, {1, 1}, {0, 4}}) {
      ExpectSame([&](const Tensors& in) { return Tensors{ActivateGated(in[0], activation)}; },
                 [&](const Tensors& in) { return Tensors{ComposedGatedActivation(in[0], activation)}; },
                 {at::randn({rows, 2 * width}) * 2}, GetParam(), Tolerance(GetParam()));
    }
  }
}

TEST_P(ActivationTest, SlicedInputsAndExpandedGradients_AreRead) {
  const auto sliced = [](const auto& f) {
    return [f](const Tensors& in) { return Tensors{f(in[0].slice(1, 3, 27), Activation::kGelu).sum(1)}; };
  };
  const double tolerance = GetParam() == at::kFloat ? 1e-5 : 0.05;
  ExpectSame(sliced(Activate), sliced(ComposedActivation), {at::randn({9, 30})}, GetParam(), tolerance);
  ExpectSame(sliced(ActivateGated), sliced(ComposedGatedActivation), {at::randn({9, 30})}, GetParam(), tolerance);
}

TEST_P(ActivationTest, AnyNumberOfThreadsAndNoGradient_GiveTheSameBits) {
  const Tensors inputs = {at::randn({999, 134}).to(GetParam())};
  const auto f = [&](const Tensors& in) {
    return Tensors{Activate(in[0], Activation::kGelu), ActivateGated(in[0], Activation::kSilu)};
  };
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Tensors expected = ResultsAndGradients(f, inputs, GetParam()), plain = f(inputs);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_TRUE(at::equal(plain[i], expected[i]));
    EXPECT_FALSE(plain[i].requires_grad());
  }
  for (const int threads : {2, 3, 5}) {
    at::set_num_threads(threads);
    const Tensors found = ResultsAndGradients(f, inputs, GetParam());
    for (size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(at::equal(found[i], expected[i])) << threads;
  }
  at::set_num_threads(before);
}

TEST(ComposedActivationTest, Fp32_EqualsFp64) {
  for (const Activation activation : kAll) {
    const auto f = [&](const Tensors& in) {
      return Tensors{ComposedActivation(in[0] * 1, activation), ComposedGatedActivation(in[0], activation)};
    };
    ExpectSame(f, f, {at::randn({9, 48})}, at::kFloat, Tolerance(at::kFloat));
  }
}

TEST(ActivationRefusalTest, WrongShapesAndTypes) {
  EXPECT_THROW(ActivateGated(at::zeros({2, 7}), Activation::kSilu), c10::Error);
  EXPECT_THROW(ActivateGated(at::zeros({8}), Activation::kSilu), c10::Error);
  EXPECT_THROW(Activate(at::zeros({2, 8}, at::kDouble), Activation::kSilu), c10::Error);
}

}  // namespace
}  // namespace weft
