#include "training/gradient_terms.h"

#include <ATen/ops/sub.h>

#include <string>

#include "adapters/factors.h"

namespace weft {

GradientTerms::GradientTerms(const proto::Plan& plan, const CohortMember& member, int64_t index,
                             const CohortTensors& cohort)
    : proximal_mu_(plan.proximal_mu()) {
  const MemberTensors& tensors = cohort.members()[index];
  std::map<std::string, at::Tensor> control;
  if (member.control != nullptr) control = cohort.TrainedOf(index, *member.control);
  if (proximal_mu_ > 0 || member.control != nullptr) {
    for (const auto& [name, tensor] : tensors) {
      if (!tensor.gradient.defined()) continue;
      const at::Tensor value = tensor.value.detach();
      terms_.push_back({.value = value,
                        .gradient = tensor.gradient,
                        .start = proximal_mu_ > 0 ? value.clone() : at::Tensor(),
                        .control = control[name]});
    }
  }
  if (!plan.has_rank_pruning()) return;
  lambda_ = plan.rank_pruning().lambda();
  const std::vector<FactorPair> pairs = FactorPairs(member.start->layout()).value();
  for (const FactorPair& pair : pairs) {
    const MemberTensor &a = tensors.at(pair.a->name), &b = tensors.at(pair.b->name);
    const int64_t rank = a.value.size(0), kept = PrunedRank(plan.rank_pruning(), rank);
    const auto tail = [&](const MemberTensor& factor, int dimension) {
      return Tail{
          .values = factor.value.detach().narrow(dimension, kept, rank - kept),
          .gradient = factor.gradient.defined() ? factor.gradient.narrow(dimension, kept, rank - kept) : at::Tensor()};
    };
    if (kept < rank) tails_.push_back({.a = tail(a, 0), .b = tail(b, 1)});
  }
}

void GradientTerms::Add() {
  for (Term& term : terms_) {
    if (term.start.defined()) term.gradient.add_(at::sub(term.value, term.start), proximal_mu_);
    if (term.control.defined()) term.gradient.add_(term.control);
  }
  for (TailPair& pair : tails_) {
    const double a = pair.a.values.norm().item<double>(), b = pair.b.values.norm().item<double>();
    if (a == 0 || b == 0) continue;
    if (pair.a.gradient.defined()) pair.a.gradient.add_(pair.a.values, lambda_ * b / a);
    if (pair.b.gradient.defined()) pair.b.gradient.add_(pair.b.values, lambda_ * a / b);
  }
}

}  // namespace weft
