#include "training/gradient_terms.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/sub.h>

#include "adapters/factors.h"

namespace weft {

GradientTerms::GradientTerms(const proto::Plan& plan, const CohortMember& member, AdapterTensors& adapter)
    : adapter_(adapter), proximal_mu_(plan.proximal_mu()) {
  if (proximal_mu_ > 0) {
    start_ = adapter.values().clone();
    difference_ = at::empty_like(start_);
  }
  if (member.control != nullptr) control_ = adapter.Flatten(*member.control);
  if (!plan.has_rank_pruning()) return;
  lambda_ = plan.rank_pruning().lambda();
  const std::vector<FactorPair> pairs = FactorPairs(member.start->layout()).value();
  for (const FactorPair& pair : pairs) {
    const at::Tensor &a = adapter.tensors().at(pair.a->name), &b = adapter.tensors().at(pair.b->name);
    const int64_t rank = a.size(0), kept = PrunedRank(plan.rank_pruning(), rank);
    const auto tail = [&](const at::Tensor& factor, int dimension) {
      const at::Tensor gradient = factor.requires_grad() ? factor.grad() : at::Tensor();
      return Tail{.values = factor.detach().narrow(dimension, kept, rank - kept),
                  .gradient = gradient.defined() ? gradient.narrow(dimension, kept, rank - kept) : gradient};
    };
    if (kept < rank) tails_.push_back({.a = tail(a, 0), .b = tail(b, 1)});
  }
}

void GradientTerms::Add() {
  at::Tensor& gradients = adapter_.gradients();
  if (proximal_mu_ > 0) {
    at::sub_out(difference_, adapter_.values(), start_);
    gradients.add_(difference_, proximal_mu_);
  }
  if (control_.defined()) gradients.add_(control_);
  for (TailPair& pair : tails_) {
    const double a = pair.a.values.norm().item<double>(), b = pair.b.values.norm().item<double>();
    if (a == 0 || b == 0) continue;
    if (pair.a.gradient.defined()) pair.a.gradient.add_(pair.a.values, lambda_ * b / a);
    if (pair.b.gradient.defined()) pair.b.gradient.add_(pair.b.values, lambda_ * a / b);
  }
}

}  // namespace weft
