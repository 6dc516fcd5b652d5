#include "training/forms/member_dropout.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>

#include <algorithm>

#include "common/random.h"
#include "kernels/dropout/dropout.h"

namespace weft {
namespace {

using kernels::DropoutMask;
using kernels::DropoutRows;

constexpr int64_t kWorthAThread = 32768;  // elements

DropoutMask MaskOf(int64_t member, const PassRandom& random, uint64_t stream, int64_t width, double rate) {
  return {.seed = MixSeed(random.seeds[member], static_cast<uint64_t>(random.step)),
          .stream = stream,
          .width = width,
          .rate = rate};
}

// f(member, begin, end) over rows of single members, which count from the member's first.
template <typename F>
void ForEachPart(const Segments& segments, int64_t width, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, width));
  at::parallel_for(0, segments.offsets.back(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t k = 0; k < segments.members(); ++k) {
      const int64_t first = std::max(begin, segments.begin(k)), last = std::min(end, segments.end(k));
      if (first < last) f(k, first - segments.begin(k), last - segments.begin(k));
    }
  });
}

template <typename T>
void WriteDropped(const at::Tensor& x, const Segments& segments, const PassRandom& random, uint64_t stream, double rate,
                  const at::Tensor& out) {
  const auto* from = static_cast<const T*>(x.const_data_ptr());
  auto* to = static_cast<T*>(out.data_ptr());
  const int64_t width = x.size(1);
  ForEachPart(segments, width, [&](int64_t k, int64_t begin, int64_t end) {
    const int64_t first = segments.begin(k);
    kernels::Dropout<T>(MaskOf(k, random, stream, width, rate), {from + first * x.stride(0), x.stride(0)},
                        {to + first * out.stride(0), out.stride(0)}, begin, end);
  });
}

template <typename T>
void Add(const at::Tensor& x, const Segments& segments, const PassRandom& random, uint64_t stream, double rate,
         const at::Tensor& out) {
  const auto* from = x.const_data_ptr<float>();
  auto* to = static_cast<T*>(out.data_ptr());
  const int64_t width = x.size(1);
  ForEachPart(segments, width, [&](int64_t k, int64_t begin, int64_t end) {
    const int64_t first = segments.begin(k);
    kernels::AddDropout<T>(MaskOf(k, random, stream, width, rate), {from + first * x.stride(0), x.stride(0)},
                           {to + first * out.stride(0), out.stride(0)}, begin, end);
  });
}

}  // namespace

MemberDropout::MemberDropout(std::string_view place, double rate) : stream_(StreamId(place)), rate_(rate) {}

at::Tensor MemberDropout::FactorsOf(const Segments& segments, const PassRandom& random, const at::Tensor& x) const {
  return Dropped(at::ones(x.sizes(), at::TensorOptions(at::kFloat)), segments, random).to(x.device());
}

at::Tensor MemberDropout::Dropped(const at::Tensor& x, const Segments& segments, const PassRandom& random) const {
  if (!x.is_cpu()) return x.mul(FactorsOf(segments, random, x).to(x.scalar_type()));
  at::Tensor out = at::empty_like(x);
  out.slice(0, segments.offsets.back()).zero_();
  const auto write = x.scalar_type() == at::kFloat ? WriteDropped<float> : WriteDropped<uint16_t>;
  write(x, segments, random, stream_, rate_, out);
  return out;
}

void MemberDropout::AddDropped(const at::Tensor& x, const Segments& segments, const PassRandom& random,
                               at::Tensor& to) const {
  if (!to.is_cpu()) {
    to.add_(x.mul(FactorsOf(segments, random, x)));
    return;
  }
  const auto add = to.scalar_type() == at::kFloat ? Add<float> : Add<uint16_t>;
  add(x, segments, random, stream_, rate_, to);
}

at::Tensor MemberDropout::Factors(int64_t member, const PassRandom& random, int64_t first, int64_t rows,
                                  int64_t width) const {
  const at::Tensor ones = at::ones({rows, width}, at::TensorOptions(at::kFloat));
  at::Tensor factors = at::empty_like(ones);
  const int64_t before = first * width;
  kernels::Dropout<float>(MaskOf(member, random, stream_, width, rate_), {ones.const_data_ptr<float>() - before, width},
                          {factors.data_ptr<float>() - before, width}, first, first + rows);
  return factors;
}

}  // namespace weft
