#include "training/ops/norm.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>

#include "training/ops/composed.h"
#include "training/ops/testing/tensors.h"

namespace weft {
namespace {

// Measured: 3.2e-7 in fp32, 3.1e-3 in bf16, of which rounding results (and sums) is all.
double Tolerance(at::ScalarType type) { return type == at::kFloat ? 1e-6 : 5e-3; }

FrozenNorm MakeNorm(int64_t width, bool rms) {
  return {.weight = at::randn({width}) * 0.3 + 1,
          .bias = rms ? at::Tensor() : at::randn({width}),
          .epsilon = 1e-5,
          .rms = rms};
}

class NormTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  NormTest() { at::manual_seed(5); }
};
INSTANTIATE_TEST_SUITE_P(Types, NormTest, testing::Values(at::kFloat, at::kBFloat16));

TEST_P(NormTest, Normalise_EqualsAutograd) {
  for (const bool rms : {false, true}) {
    for (const auto& [rows, width] : std::vector<std::pair<int64_t, int64_t>>{{7, 384}, {1, 33}, {200, 100}, {0, 16}}) {
      const FrozenNorm norm = MakeNorm(width, rms);
      ExpectSame([&](const Tensors& in) { return Tensors{Normalise(in[0], norm)}; },
                 [&](const Tensors& in) { return Tensors{ComposedNorm(in[0], norm)}; },
                 {at::randn({rows, width}) * 2 + 0.5}, GetParam(), Tolerance(GetParam()));
    }
  }
}

TEST_P(NormTest, AddAndNormalise_EqualsAutogradThroughBoth) {
  // The sum is rounded to its type before it is normalised; the reference rounds likewise, and passes gradients on.
  const auto sum_of = [&](const Tensors& in) {
    const at::Tensor sum = in[0] + in[1];
    return sum + (sum.detach().to(GetParam()).to(at::kDouble) - sum.detach());
  };
  for (const bool rms : {false, true}) {
    const FrozenNorm norm = MakeNorm(100, rms);
    const Tensors inputs = {at::randn({90, 100}), at::randn({90, 100})};
    const auto both = [&](const Tensors& in) {
      const auto [sum, normed] = AddAndNormalise(in[0], in[1], norm);
      return Tensors{sum, normed};
    };
    ExpectSame(
        both,
        [&](const Tensors& in) {
          return Tensors{sum_of(in), ComposedNorm(sum_of(in), norm)};
        },
        inputs, GetParam(), Tolerance(GetParam()));
    ExpectSame([&](const Tensors& in) { return Tensors{both(in)[1]}; },
               [&](const Tensors& in) { return Tensors{ComposedNorm(sum_of(in), norm)}; }, inputs, GetParam(),
               Tolerance(GetParam()));
    ExpectSame([&](const Tensors& in) { return Tensors{both(in)[0]}; },
               [&](const Tensors& in) { return Tensors{sum_of(in)}; }, inputs, GetParam(), Tolerance(GetParam()));
  }
}

TEST_P(NormTest, NormaliseHeads_EqualsAutograd) {
  for (const bool rms : {true, false}) {
    const FrozenNorm first = MakeNorm(40, rms), second = MakeNorm(40, /*rms=*/true);
    for (const auto& [of_first, of_second] : std::vector<std::pair<int64_t, int64_t>>{{4, 2}, {3, 0}, {0, 1}}) {
      const auto [f, s] = std::pair(of_first, of_second);
      ExpectSame([&](const Tensors& in) { return Tensors{NormaliseHeads(in[0], f, first, s, second)}; },
                 [&](const Tensors& in) { return Tensors{ComposedHeadNorms(in[0], f, first, s, second)}; },
                 {at::randn({50, 8 * 40})}, GetParam(), Tolerance(GetParam()));
    }
  }
}

TEST_P(NormTest, SlicedRowsAndExpandedGradients_AreRead) {
  const FrozenNorm norm = MakeNorm(24, /*rms=*/false);
  const auto sliced = [&](const auto& f) {
    return [&norm, f](const Tensors& in) {
      const at::Tensor one = f(in[0].slice(1, 3, 27), norm);
      return Tensors{one.sum(1)};
    };
  };
  ExpectSame(sliced(Normalise), sliced(ComposedNorm), {at::randn({9, 30})}, GetParam(),
             GetParam() == at::kFloat ? 1e-5 : 0.05);
}

TEST_P(NormTest, WithoutGradient_GivesTheSameBits) {
  const FrozenNorm norm = MakeNorm(64, /*rms=*/false), head = MakeNorm(16, /*rms=*/true);
  const at::Tensor x = at::randn({5, 64}).to(GetParam()), y = at::randn({5, 64}).to(GetParam());
  const at::Tensor leaf = x.clone().requires_grad_();
  const auto [sum, normed] = AddAndNormalise(x, y, norm);
  EXPECT_FALSE(normed.requires_grad());
  EXPECT_TRUE(Normalise(leaf, norm).requires_grad());
  EXPECT_TRUE(AddAndNormalise(y, leaf, norm).first.requires_grad());
  EXPECT_TRUE(at::equal(AddAndNormalise(leaf, y, norm).second.detach(), normed));
  EXPECT_TRUE(at::equal(AddAndNormalise(leaf, y, norm).first.detach(), sum));
  EXPECT_TRUE(at::equal(Normalise(leaf, norm).detach(), Normalise(x, norm)));
  EXPECT_TRUE(at::equal(NormaliseHeads(leaf, 2, head, 1, head).detach(), NormaliseHeads(x, 2, head, 1, head)));
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(Normalise(leaf, norm).requires_grad());
}

TEST_P(NormTest, AnyNumberOfThreads_GivesTheSameBits) {
  const FrozenNorm norm = MakeNorm(100, /*rms=*/false), head = MakeNorm(20, /*rms=*/true);
  const Tensors inputs = {at::randn({2000, 100}).to(GetParam()), at::randn({2000, 100}).to(GetParam())};
  const auto f = [&](const Tensors& in) {
    const auto [sum, normed] = AddAndNormalise(in[0], in[1], norm);
    return Tensors{normed, NormaliseHeads(sum, 3, head, 1, head)};
  };
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Tensors expected = ResultsAndGradients(f, inputs, GetParam());
  for (const int threads : {2, 3, 5}) {
    at::set_num_threads(threads);
    const Tensors found = ResultsAndGradients(f, inputs, GetParam());
    for (size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(at::equal(found[i], expected[i])) << threads;
  }
  at::set_num_threads(before);
}

TEST(ComposedNormTest, Fp32_EqualsFp64) {
  for (const bool rms : {false, true}) {
    const FrozenNorm norm = MakeNorm(48, rms);
    const auto f = [&](const Tensors& in) { return Tensors{ComposedNorm(in[0], norm)}; };
    ExpectSame(f, f, {at::randn({9, 48})}, at::kFloat, Tolerance(at::kFloat));
  }
}

TEST(NormRefusalTest, WrongShapesAndTypes) {
  const FrozenNorm norm = MakeNorm(8, /*rms=*/false);
  const at::Tensor x = at::zeros({2, 8});
  EXPECT_THROW(Normalise(at::zeros({2, 7}), norm), c10::Error);
  EXPECT_THROW(Normalise(at::zeros({2, 9}), norm), c10::Error);
  EXPECT_THROW(Normalise(x.to(at::kDouble), norm), c10::Error);
  EXPECT_THROW(AddAndNormalise(x, at::zeros({3, 8}), norm), c10::Error);
  EXPECT_THROW(AddAndNormalise(x, x.to(at::kBFloat16), norm), c10::Error);
  EXPECT_THROW(NormaliseHeads(x, 1, norm, 1, norm), c10::Error);
}

}  // namespace
}  // namespace weft
