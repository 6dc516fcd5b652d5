#include "training/ops/losses.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "training/ops/testing/tensors.h"

namespace weft {
namespace {

// Measured: losses and gradients 1.2e-7 in fp32; with a product before them 3e-6. A bf16 product rounds each logit to 8
// bits, and the gradient again: 8e-3.
constexpr double kTolerance = 1e-6, kAfterProduct = 1e-5, kInBf16 = 3e-2;

// What autograd gives in fp64: losses without smoothing, gradients of the weighted sum with it.
Tensors Expected(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights, double smoothing,
                 const Tensors& leaves) {
  const at::Tensor smoothed = at::cross_entropy_loss(logits, targets, {}, at::Reduction::None, -100, smoothing);
  (smoothed * weights).sum().backward();
  Tensors found = {at::cross_entropy_loss(logits, targets, {}, at::Reduction::None).detach()};
  for (const at::Tensor& leaf : leaves) found.push_back(leaf.grad());
  return found;
}

void ExpectNear(const at::Tensor& found, const at::Tensor& expected, double tolerance) {
  const double error = LargestError(found, expected);
  EXPECT_LE(error, tolerance);
  EXPECT_GT(LargestError(found, expected + 4 * tolerance * (1 + expected.abs())), tolerance);
}

at::Tensor Leaf(const at::Tensor& x) { return x.detach().to(at::kDouble).requires_grad_(); }

TEST(SoftmaxCrossEntropyTest, EqualsAutograd) {
  at::manual_seed(1);
  for (const auto& [lines, classes] :
       std::vector<std::pair<int64_t, int64_t>>{{33, 7}, {5, 1}, {1, 100}, {600, 1000}}) {
    for (const double smoothing : {0.0, 0.1}) {
      const at::Tensor logits = at::randn({lines, classes}) * 3, weights = at::rand({lines});
      const at::Tensor targets = at::randint(0, classes, {lines}, at::kLong), leaf = Leaf(logits);
      const Tensors expected = Expected(leaf, targets, weights, smoothing, {leaf});
      for (const auto& f : {SoftmaxCrossEntropy, ComposedCrossEntropy}) {
        const LineLosses found = f(logits, targets, weights, smoothing);
        ExpectNear(found.losses, expected[0], kTolerance);
        ExpectNear(found.gradient, expected[1], kTolerance);
        EXPECT_TRUE(at::equal(found.correct, logits.argmax(1) == targets));
      }
    }
  }
}

TEST(SoftmaxCrossEntropyTest, MembersWeights_MakeEachLossAMeanOfItsOwn) {
  at::manual_seed(2);
  const at::Tensor logits = at::randn({5, 4}), targets = at::randint(0, 4, {5}, at::kLong);
  const at::Tensor weights = at::full({5}, 1.0 / 3);
  weights.slice(0, 3).fill_(0.5);
  const LineLosses found = SoftmaxCrossEntropy(logits, targets, weights, 0);
  for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{{0, 3}, {3, 5}}) {
    const at::Tensor leaf = Leaf(logits.slice(0, begin, end));
    at::cross_entropy_loss(leaf, targets.slice(0, begin, end)).backward();
    ExpectNear(found.gradient.slice(0, begin, end), leaf.grad(), kTolerance);
  }
}

TEST(SoftmaxCrossEntropyTest, WithoutWeights_HasNoGradient) {
  const at::Tensor logits = at::randn({3, 4}), targets = at::zeros({3}, at::kLong);
  const LineLosses with = SoftmaxCrossEntropy(logits, targets, at::full({3}, 1.0), 0),
                   without = SoftmaxCrossEntropy(logits, targets, {}, 0);
  EXPECT_FALSE(without.gradient.defined());
  EXPECT_TRUE(at::equal(without.losses, with.losses));
}

TEST(SoftmaxCrossEntropyTest, LargeLogitsStayFiniteAndNanShows) {
  at::Tensor logits = at::full({1, 3}, 1000.0);
  const at::Tensor target = at::full({1}, 1, at::kLong);
  const auto loss = [&] { return SoftmaxCrossEntropy(logits, target, {}, 0).losses.item<double>(); };
  EXPECT_NEAR(loss(), std::log(3.0), kTolerance);
  logits[0][1] = -1e30;
  EXPECT_NEAR(loss(), 1e30, 1e24);
  for (const int position : {0, 1, 2}) {
    logits = at::full({1, 3}, 1.0);
    logits[0][position] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(loss())) << position;
  }
}

TEST(SoftmaxCrossEntropyTest, BadTargetsAndWeights_AreRefused) {
  const at::Tensor logits = at::zeros({2, 3});
  EXPECT_THROW(SoftmaxCrossEntropy(logits, at::full({2}, 3, at::kLong), {}, 0), c10::Error);
  EXPECT_THROW(SoftmaxCrossEntropy(logits, at::full({2}, -1, at::kLong), {}, 0), c10::Error);
  EXPECT_THROW(SoftmaxCrossEntropy(logits, at::zeros({3}, at::kLong), {}, 0), c10::Error);
  EXPECT_THROW(SoftmaxCrossEntropy(logits, at::zeros({2}, at::kLong), at::zeros({1}), 0), c10::Error);
}

TEST(FrozenLinearCrossEntropyTest, EqualsAutograd) {
  at::manual_seed(3);
  // One part, and several with a rest.
  for (const auto& [lines, vocabulary] : std::vector<std::pair<int64_t, int64_t>>{{5, 50}, {600, 301}}) {
    const int64_t width = 24;
    const at::Tensor hidden = at::randn({lines, width}), head = at::randn({vocabulary, width}) * 0.5;
    const at::Tensor targets = at::randint(0, vocabulary, {lines}, at::kLong), weights = at::rand({lines});
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const double smoothing = lines == 5 ? 0.1 : 0;
      const at::Tensor x = hidden.to(type), w = head.to(type), leaf = Leaf(x);
      const at::Tensor logits = at::mm(leaf, w.to(at::kDouble).t());
      const LineLosses found = FrozenLinearCrossEntropy(x, w, targets, weights, smoothing);
      EXPECT_EQ(found.gradient.scalar_type(), type);
      const at::Tensor same = (found.correct == (logits.argmax(1) == targets));
      EXPECT_GE(same.sum().item<int64_t>(), lines - (type == at::kFloat ? 0 : lines / 20));
      const Tensors expected = Expected(logits, targets, weights, smoothing, {leaf});
      ExpectNear(found.losses, expected[0], type == at::kFloat ? kAfterProduct : kInBf16);
      ExpectNear(found.gradient, expected[1], type == at::kFloat ? kAfterProduct : kInBf16);
      const LineLosses without = FrozenLinearCrossEntropy(x, w, targets, {}, 0);
      EXPECT_FALSE(without.gradient.defined());
      EXPECT_TRUE(at::equal(without.losses, found.losses));
    }
  }
}

TEST(FrozenLinearCrossEntropyTest, NoLines_GiveNone) {
  const LineLosses found =
      FrozenLinearCrossEntropy(at::zeros({0, 4}), at::zeros({9, 4}), at::zeros({0}, at::kLong), at::zeros({0}), 0);
  EXPECT_EQ(found.losses.size(0), 0);
  EXPECT_EQ(found.gradient.size(0), 0);
}

TEST(FrozenLinearCrossEntropyTest, TargetOutsideTheVocabulary_IsRefused) {
  EXPECT_THROW(FrozenLinearCrossEntropy(at::zeros({1, 4}), at::zeros({9, 4}), at::full({1}, 9, at::kLong), {}, 0),
               c10::Error);
}

TEST(ContrastivePairsTest, EqualsAutograd) {
  at::manual_seed(4);
  for (const int64_t pairs : {1, 8, 50}) {
    for (const double smoothing : {0.0, 0.1}) {
      const at::Tensor a = at::randn({pairs, 40}), b = a * 0.3 + at::randn({pairs, 40});
      const at::Tensor leaf_a = Leaf(a), leaf_b = Leaf(b), targets = at::arange(pairs);
      const at::Tensor logits = at::mm(leaf_a / leaf_a.norm(2, 1, true), (leaf_b / leaf_b.norm(2, 1, true)).t()) / 0.05;
      const Tensors expected =
          Expected(logits, targets, at::full({pairs}, 0.25, at::kDouble), smoothing, {leaf_a, leaf_b});
      const PairLosses found = ContrastivePairs(a, b, 0.05, 0.25, smoothing);
      ExpectNear(found.lines.losses, expected[0], kAfterProduct);
      ExpectNear(found.a_gradient, expected[1], kAfterProduct);
      ExpectNear(found.b_gradient, expected[2], kAfterProduct);
      EXPECT_TRUE(at::equal(found.lines.correct, logits.argmax(1) == targets));
      EXPECT_FALSE(found.lines.gradient.defined());
    }
  }
}

TEST(ContrastivePairsTest, ZeroRowsStayFiniteAndNoWeightIsNoGradient) {
  const at::Tensor a = at::zeros({3, 4}), b = at::randn({3, 4});
  const PairLosses found = ContrastivePairs(a, b, 0.05, 1, 0);
  EXPECT_NEAR(found.lines.losses[0].item<double>(), std::log(3.0), kTolerance);
  EXPECT_TRUE(found.a_gradient.isfinite().all().item<bool>());
  EXPECT_TRUE(found.b_gradient.isfinite().all().item<bool>());
  EXPECT_FALSE(ContrastivePairs(a, b, 0.05, 0, 0).a_gradient.defined());
}

TEST(LossesTest, AnyNumberOfThreads_GivesTheSameBits) {
  at::manual_seed(5);
  const at::Tensor logits = at::randn({400, 300}), targets = at::randint(0, 300, {400}, at::kLong);
  const at::Tensor weights = at::rand({400});
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const LineLosses expected = SoftmaxCrossEntropy(logits, targets, weights, 0.1);
  for (const int threads : {2, 3, 5}) {
    at::set_num_threads(threads);
    const LineLosses found = SoftmaxCrossEntropy(logits, targets, weights, 0.1);
    EXPECT_TRUE(at::equal(found.losses, expected.losses));
    EXPECT_TRUE(at::equal(found.gradient, expected.gradient));
  }
  at::set_num_threads(before);
}

}  // namespace
}  // namespace weft
