#include "training/forms/grouped_factors.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "kernels/grouped_lora/grouped_lora.h"

namespace weft {
namespace {

using kernels::LoraFactor;
using kernels::LoraRows;

// Fewer multiplications than this are not worth waking a thread.
constexpr int64_t kWorthAThread = 500'000;

std::vector<LoraFactor> KernelFactors(const GroupedFactor& factor, const Segments& segments, const at::Tensor& low) {
  std::vector<LoraFactor> factors;
  float* next = low.data_ptr<float>();
  for (int64_t k = 0; k < segments.members(); ++k) {
    const MemberTensor& member = factor.members[k];
    factors.push_back({.begin = segments.begin(k),
                       .end = segments.end(k),
                       .rank = factor.rank(k),
                       .values = member.value.const_data_ptr<float>(),
                       .gradient = member.gradient.defined() ? member.gradient.data_ptr<float>() : nullptr,
                       .low = next});
    next += (segments.end(k) - segments.begin(k)) * factor.rank(k);
  }
  return factors;
}

template <typename T, typename Data>
LoraRows<T> KernelRows(const FactorRows& side, std::span<const LoraFactor> factors, Data* data) {
  return {.rows = reinterpret_cast<T*>(data),
          .stride = side.rows.stride(0),
          .width = side.rows.size(1),
          .factors = factors,
          .transposed = side.factor->transposed,
          .scale = static_cast<float>(side.scale)};
}

// f(T{}) with the type by which the kernels know the dtype.
template <typename F>
void WithType(const at::Tensor& rows, const F& f) {
  TORCH_CHECK(rows.scalar_type() == at::kFloat || rows.scalar_type() == at::kBFloat16, "rows are fp32 or bf16, found ",
              rows.scalar_type());
  rows.scalar_type() == at::kFloat ? f(float{}) : f(uint16_t{});
}

void Project(const FactorRows& from, std::span<const LoraFactor> factors, int64_t begin, int64_t end) {
  WithType(from.rows, [&](auto type) {
    using T = decltype(type);
    kernels::LoraProject<T>(KernelRows<const T>(from, factors, from.rows.const_data_ptr()), begin, end);
  });
}

void Expand(const FactorRows& to, std::span<const LoraFactor> factors, int64_t begin, int64_t end) {
  WithType(to.rows, [&](auto type) {
    using T = decltype(type);
    kernels::LoraExpand<T>(KernelRows<T>(to, factors, to.rows.data_ptr()), begin, end);
  });
}

void AddGradient(const FactorRows& of, std::span<const LoraFactor> factors, int64_t begin, int64_t end) {
  WithType(of.rows, [&](auto type) {
    using T = decltype(type);
    kernels::LoraAddGradient<T>(KernelRows<const T>(of, factors, of.rows.const_data_ptr()), begin, end);
  });
}

// Multiplications of all members with this factor.
int64_t Multiplications(const FactorRows& side, const at::Tensor& low) { return low.numel() * side.rows.size(1); }

int64_t Grain(int64_t items, int64_t multiplications) {
  return std::max<int64_t>(1, items * kWorthAThread / std::max<int64_t>(1, multiplications));
}

// One member's part of a matrix and of low, and M.
struct MemberPart {
  at::Tensor rows, low, m;
};

template <typename F>
void ForEachMember(const Segments& segments, const FactorRows& side, const at::Tensor& low, const F& f) {
  int64_t next = 0;
  for (int64_t k = 0; k < segments.members(); ++k) {
    const int64_t rank = side.factor->rank(k), rows = segments.end(k) - segments.begin(k);
    const at::Tensor& value = side.factor->members[k].value;
    const MemberPart part = {.rows = side.rows.slice(0, segments.begin(k), segments.end(k)),
                             .low = low.slice(0, next, next + rows * rank).view({rows, rank}),
                             .m = side.factor->transposed ? value.detach().t() : value.detach()};
    next += rows * rank;
    if (rows > 0) f(side.factor->members[k], part);
  }
}

void ProjectByAten(const Segments& segments, const FactorRows& from, const at::Tensor& low) {
  ForEachMember(segments, from, low, [&](const MemberTensor&, const MemberPart& part) {
    at::Tensor(part.low).copy_(at::mm(part.rows, part.m.to(part.rows.scalar_type()).t())).mul_(from.scale);
  });
}

void ExpandByAten(const Segments& segments, const at::Tensor& low, const FactorRows& to) {
  ForEachMember(segments, to, low, [&](const MemberTensor&, const MemberPart& part) {
    const at::ScalarType dtype = part.rows.scalar_type();
    at::Tensor(part.rows).addmm_(part.low.to(dtype), part.m.to(dtype), /*beta=*/1, to.scale);
  });
}

void AddGradientByAten(const Segments& segments, const FactorGradient& gradient) {
  const FactorRows& of = gradient.of;
  ForEachMember(segments, of, gradient.low, [&](const MemberTensor& member, const MemberPart& part) {
    if (!member.gradient.defined()) return;
    at::Tensor to = of.factor->transposed ? member.gradient.t() : member.gradient;
    to.add_(at::mm(part.low.t().to(part.rows.scalar_type()), part.rows), of.scale);
  });
}

bool UsesKernel(const at::Tensor& low, ProductPath path) { return path == ProductPath::kBest && low.is_cpu(); }

}  // namespace

bool GroupedFactor::IsTrained() const {
  return std::any_of(members.begin(), members.end(), [](const MemberTensor& m) { return m.gradient.defined(); });
}

at::Tensor NewLow(const GroupedFactor& factor, const Segments& segments, at::Device device, bool zeros) {
  int64_t count = 0;
  for (int64_t k = 0; k < segments.members(); ++k) count += (segments.end(k) - segments.begin(k)) * factor.rank(k);
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(device);
  return zeros ? at::zeros({count}, options) : at::empty({count}, options);
}

void ProjectAndExpand(const Segments& segments, const std::optional<FactorRows>& from, const at::Tensor& low,
                      const std::optional<FactorRows>& to, ProductPath path) {
  if (!UsesKernel(low, path)) {
    if (from) ProjectByAten(segments, *from, low);
    if (to) ExpandByAten(segments, low, *to);
    return;
  }
  std::vector<LoraFactor> projected, expanded;
  if (from) projected = KernelFactors(*from->factor, segments, low);
  if (to) expanded = KernelFactors(*to->factor, segments, low);
  const int64_t items = kernels::LoraRowBlocks(from ? projected : expanded);
  const int64_t work = (from ? Multiplications(*from, low) : 0) + (to ? Multiplications(*to, low) : 0);
  at::parallel_for(0, items, Grain(items, work), [&](int64_t begin, int64_t end) {
    if (from) Project(*from, projected, begin, end);
    if (to) Expand(*to, expanded, begin, end);
  });
}

void AddGradients(const Segments& segments, std::span<const FactorGradient> gradients, ProductPath path) {
  // Their items one after another, so that the threads meet once.
  std::vector<std::vector<LoraFactor>> factors;
  std::vector<int64_t> firsts = {0};
  int64_t work = 0;
  for (const FactorGradient& gradient : gradients) {
    if (!UsesKernel(gradient.low, path)) {
      AddGradientByAten(segments, gradient);
      continue;
    }
    factors.push_back(KernelFactors(*gradient.of.factor, segments, gradient.low));
    firsts.push_back(firsts.back() + kernels::LoraColumnPanels(factors.back(), gradient.of.rows.size(1)));
    work += Multiplications(gradient.of, gradient.low);
  }
  const int64_t items = firsts.back();
  at::parallel_for(0, items, Grain(items, work), [&](int64_t begin, int64_t end) {
    for (size_t i = 0; i < factors.size(); ++i) {
      const int64_t first = std::max(begin, firsts[i]) - firsts[i], last = std::min(end, firsts[i + 1]) - firsts[i];
      if (first < last) AddGradient(gradients[i].of, factors[i], first, last);
    }
  });
}

}  // namespace weft
