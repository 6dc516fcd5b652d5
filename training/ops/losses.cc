#include "training/ops/losses.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>

#include <algorithm>

#include "kernels/losses/cross_entropy.h"
#include "training/ops/elements.h"

namespace weft {
namespace {

void CheckLines(int64_t lines, int64_t classes, const at::Tensor& targets, const at::Tensor& weights) {
  TORCH_CHECK(targets.numel() == lines && (!weights.defined() || weights.numel() == lines), "found ", targets.numel(),
              " targets and ", weights.defined() ? weights.numel() : lines, " weights, expected ", lines, " of each");
  const auto* target = targets.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < lines; ++i) {
    TORCH_CHECK(target[i] >= 0 && target[i] < classes, "found target ", target[i], " on line ", i,
                ", expected one of 0 to ", classes - 1);
  }
}

// Lines [first, first + logits.size(0)) of results; the gradient goes to `gradient`, logits' own memory or none.
void OnCpu(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights, double label_smoothing,
           int64_t first, const at::Tensor& gradient, const LineLosses& lines) {
  WithElement(logits.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const kernels::CrossEntropyRows<T> rows = {
        .logits = ConstData<T>(logits),
        .width = logits.size(1),
        .labels = targets.const_data_ptr<int64_t>() + first,
        .losses = lines.losses.mutable_data_ptr<float>() + first,
        .correct = lines.correct.mutable_data_ptr<bool>() + first,
        .gradient = gradient.defined() ? MutableData<T>(gradient) : nullptr,
        .weights = gradient.defined() ? weights.const_data_ptr<float>() + first : nullptr,
        .label_smoothing = static_cast<float>(label_smoothing)};
    at::parallel_for(0, logits.size(0), RowsPerThread(logits.size(1)),
                     [&](int64_t begin, int64_t end) { kernels::CrossEntropy(rows, begin, end); });
  });
}

LineLosses Undecided(int64_t lines) {
  return {.losses = at::empty({lines}, at::TensorOptions(at::kFloat)),
          .correct = at::empty({lines}, at::TensorOptions(at::kBool)),
          .gradient = {}};
}

// Many lines make good products, few little memory: at most 64 MB of logits in fp32, on the CPU.
int64_t LinesAtATime(const at::Tensor& hidden, int64_t vocabulary) {
  if (!hidden.device().is_cpu()) return 1024;
  return std::clamp<int64_t>((int64_t{1} << 24) / vocabulary, 32, 256);
}

// Rows of length 1; a row of zeros stays.
struct Normalised {
  at::Tensor rows, lengths;
};

Normalised ToLengthOne(const at::Tensor& x) {
  const at::Tensor lengths = x.norm(2, 1, /*keepdim=*/true).clamp_min(1e-12);
  return {.rows = x / lengths, .lengths = lengths};
}

// Gradient by x, given that by x / |x|.
at::Tensor ThroughLength(const Normalised& x, const at::Tensor& gradient) {
  return (gradient - x.rows * (x.rows * gradient).sum(1, /*keepdim=*/true)) / x.lengths;
}

}  // namespace

LineLosses ComposedCrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights,
                                double label_smoothing) {
  const at::NoGradGuard no_grad;
  const at::Tensor target = targets.to(logits.device()).unsqueeze(1);
  at::Tensor log_softmax = at::log_softmax(logits, 1, at::kFloat);
  LineLosses lines = {.losses = -log_softmax.gather(1, target).squeeze(1).to(at::kCPU),
                      .correct = (logits.argmax(1, /*keepdim=*/true) == target).squeeze(1).to(at::kCPU),
                      .gradient = {}};
  if (!weights.defined()) return lines;
  const at::Tensor weight = weights.to(logits.device()).unsqueeze(1);
  const at::Tensor gradient = log_softmax.exp_().sub_(label_smoothing / static_cast<double>(logits.size(1)));
  gradient.scatter_add_(1, target, at::full(target.sizes(), label_smoothing - 1, gradient.options()));
  lines.gradient = gradient.mul_(weight).masked_fill_(weight == 0, 0).to(logits.scalar_type());
  return lines;
}

LineLosses SoftmaxCrossEntropy(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& weights,
                               double label_smoothing) {
  CheckLines(logits.size(0), logits.size(1), targets, weights);
  if (!logits.device().is_cpu()) return ComposedCrossEntropy(logits, targets, weights, label_smoothing);
  const at::NoGradGuard no_grad;
  const at::Tensor dense = logits.contiguous();
  LineLosses lines = Undecided(logits.size(0));
  if (weights.defined()) lines.gradient = at::empty_like(dense);
  OnCpu(dense, targets, weights, label_smoothing, 0, lines.gradient, lines);
  return lines;
}

LineLosses FrozenLinearCrossEntropy(const at::Tensor& hidden_in, const at::Tensor& head, const at::Tensor& targets,
                                    const at::Tensor& weights, double label_smoothing) {
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = hidden_in.detach();
  const int64_t count = hidden.size(0), vocabulary = head.size(0), step = LinesAtATime(hidden, vocabulary);
  CheckLines(count, vocabulary, targets, weights);
  LineLosses lines = Undecided(count);
  if (weights.defined()) lines.gradient = at::empty({count, hidden.size(1)}, hidden.options());
  // One buffer for all: fresh pages for each part cost more than the softmax.
  const at::Tensor buffer = at::empty({std::min(step, count), vocabulary}, hidden.options());
  for (int64_t begin = 0; begin < count; begin += step) {
    const int64_t end = std::min(begin + step, count);
    at::Tensor logits = buffer.slice(0, 0, end - begin);
    at::mm_out(logits, hidden.slice(0, begin, end), head.t());
    if (hidden.device().is_cpu()) {
      OnCpu(logits, targets, weights, label_smoothing, begin, weights.defined() ? logits : at::Tensor(), lines);
    } else {
      const LineLosses some =
          ComposedCrossEntropy(logits, targets.slice(0, begin, end),
                               weights.defined() ? weights.slice(0, begin, end) : weights, label_smoothing);
      lines.losses.slice(0, begin, end).copy_(some.losses);
      lines.correct.slice(0, begin, end).copy_(some.correct);
      if (weights.defined()) logits = some.gradient;
    }
    if (!weights.defined()) continue;
    at::Tensor gradient = lines.gradient.slice(0, begin, end);
    at::mm_out(gradient, logits, head);
  }
  return lines;
}

PairLosses ContrastivePairs(const at::Tensor& a, const at::Tensor& b, double temperature, double weight,
                            double label_smoothing) {
  const at::NoGradGuard no_grad;
  const Normalised from = ToLengthOne(a), to = ToLengthOne(b);
  const at::TensorOptions on_cpu(at::kCPU);
  const at::Tensor weights = weight == 0 ? at::Tensor() : at::full({a.size(0)}, weight, on_cpu.dtype(at::kFloat));
  PairLosses pairs;
  pairs.lines = SoftmaxCrossEntropy(at::mm(from.rows, to.rows.t()).div_(temperature),
                                    at::arange(a.size(0), on_cpu.dtype(at::kLong)), weights, label_smoothing);
  if (weight == 0) return pairs;
  const at::Tensor gradient = pairs.lines.gradient.div(temperature);
  pairs.lines.gradient = at::Tensor();
  pairs.a_gradient = ThroughLength(from, at::mm(gradient, to.rows));
  pairs.b_gradient = ThroughLength(to, at::mm(gradient.t(), from.rows));
  return pairs;
}

}  // namespace weft
