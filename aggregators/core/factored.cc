#include "aggregators/core/factored.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/products.h"

namespace weft::aggregators {
namespace {

absl::Status CheckClient(const ClientFactors& client, size_t index, int64_t in, int64_t out) {
  const std::string who = absl::StrCat("factors of client number ", index, ": found ");
  if (client.rank < 1)
    return absl::InvalidArgumentError(absl::StrCat(who, "rank ", client.rank, ", expected 1 or more"));
  if (!std::isfinite(client.weight)) {
    return absl::InvalidArgumentError(absl::StrCat(who, "weight ", client.weight, ", expected a finite one"));
  }
  const auto size_a = static_cast<size_t>(client.rank * in), size_b = static_cast<size_t>(client.rank * out);
  if (client.a.size() == size_a && client.b.size() == size_b) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(who, client.a.size(), " values of A and ", client.b.size(),
                                                 " of B, expected ", size_a, " [rank, in] and ", size_b,
                                                 " [out, rank] for rank ", client.rank));
}

}  // namespace

void Matrix::CopyTo(std::span<float> to) const {
  std::transform(values.begin(), values.end(), to.begin(), [](double value) { return static_cast<float>(value); });
}

absl::StatusOr<FactorStack> FactorStack::Create(int64_t in, int64_t out, std::vector<ClientFactors> clients) {
  if (in < 1 || out < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("module of ", in, " inputs and ", out, " outputs: expected 1 or more"));
  }
  if (clients.empty()) return absl::InvalidArgumentError("factors: found no client, expected at least one");
  for (size_t k = 0; k < clients.size(); ++k) {
    if (absl::Status status = CheckClient(clients[k], k, in, out); !status.ok()) return status;
  }
  FactorStack stack;
  stack.in_ = in;
  stack.out_ = out;
  stack.clients_ = std::move(clients);
  for (const ClientFactors& client : stack.clients_) {
    stack.max_rank_ = std::max(stack.max_rank_, client.rank);
    for (int64_t c = 0; c < client.rank; ++c) {
      stack.weights_.push_back(client.weight);
      stack.rows_a_.push_back(client.a.data() + c * in);
      stack.columns_b_.push_back(client.b.data() + c);
      stack.strides_a_.push_back(1);
      stack.strides_b_.push_back(client.rank);
    }
  }
  return stack;
}

const Matrix& FactorStack::GramA() {
  if (gram_a_.values.empty()) {
    gram_a_ = Matrix(components(), components());
    kernels::Gram({rows_a_.data(), strides_a_.data(), components(), in_}, gram_a_.values.data());
  }
  return gram_a_;
}

const Matrix& FactorStack::GramB() {
  if (gram_b_.values.empty()) {
    gram_b_ = Matrix(components(), components());
    kernels::Gram({columns_b_.data(), strides_b_.data(), components(), out_}, gram_b_.values.data());
  }
  return gram_b_;
}

Matrix FactorStack::CombineA(const Matrix& w) const {
  Matrix result(w.columns, in_);
  kernels::CombineToRows({rows_a_.data(), strides_a_.data(), components(), in_}, w.values.data(), w.columns,
                         result.values.data());
  return result;
}

Matrix FactorStack::CombineB(const Matrix& w) const {
  Matrix result(out_, w.columns);
  kernels::CombineToColumns({columns_b_.data(), strides_b_.data(), components(), out_}, w.values.data(), w.columns,
                            result.values.data());
  return result;
}

Matrix FactorStack::MeanCombination() const {
  Matrix w(components(), max_rank_);
  int64_t j = 0;
  for (const ClientFactors& client : clients_) {
    for (int64_t c = 0; c < client.rank; ++c) w(j++, c) = client.weight;
  }
  return w;
}

Factors FactorStack::Mean() const {
  const Matrix w = MeanCombination();
  return {CombineA(w), CombineB(w)};
}

Factors FactorStack::Stacked() const {
  Factors stacked = {Matrix(components(), in_), Matrix(out_, components())};
  for (int64_t j = 0; j < components(); ++j) {
    for (int64_t d = 0; d < in_; ++d) stacked.a(j, d) = weights_[j] * rows_a_[j][d];
  }
  for (int64_t d = 0; d < out_; ++d) {
    for (int64_t j = 0; j < components(); ++j) stacked.b(d, j) = columns_b_[j][d * strides_b_[j]];
  }
  return stacked;
}

absl::StatusOr<Factors> FactorStack::Residual() const {
  double total = 0;
  for (const ClientFactors& client : clients_) total += client.weight;
  if (std::abs(total - 1) > 1e-9) {
    return absl::FailedPreconditionError(
        absl::StrCat("residual of averaged factors: found weights that sum to ", total, ", expected 1"));
  }
  const Matrix mean = CombineA(MeanCombination());
  const ClientFactors& last = clients_.back();
  const int64_t blocks = static_cast<int64_t>(clients_.size()) - 1, rank = blocks * max_rank_;
  Factors residual = {Matrix(rank, in_), Matrix(out_, rank)};
  for (int64_t k = 0; k < blocks; ++k) {
    const ClientFactors& client = clients_[k];
    for (int64_t c = 0; c < max_rank_; ++c) {
      const int64_t j = k * max_rank_ + c;
      for (int64_t d = 0; d < in_; ++d) {
        const double own = c < client.rank ? client.a[c * in_ + d] : 0.0;
        residual.a(j, d) = client.weight * (own - mean(c, d));
      }
      for (int64_t d = 0; d < out_; ++d) {
        const double own = c < client.rank ? client.b[d * client.rank + c] : 0.0;
        residual.b(d, j) = own - (c < last.rank ? last.b[d * last.rank + c] : 0.0);
      }
    }
  }
  return residual;
}

Matrix FactorStack::InnerProducts() {
  const Matrix &a = GramA(), &b = GramB();
  std::vector<size_t> owner;
  for (size_t k = 0; k < clients_.size(); ++k) owner.insert(owner.end(), clients_[k].rank, k);
  Matrix products(clients_.size(), clients_.size());
  for (int64_t i = 0; i < components(); ++i) {
    for (int64_t j = 0; j < components(); ++j) products(owner[i], owner[j]) += a(i, j) * b(i, j);
  }
  return products;
}

double FactorStack::SquaredNorm() {
  const Matrix &a = GramA(), &b = GramB();
  double sum = 0;
  for (int64_t i = 0; i < components(); ++i) {
    double row = 0;
    for (int64_t j = 0; j < components(); ++j) row += weights_[j] * a(i, j) * b(i, j);
    sum += weights_[i] * row;
  }
  return std::max(sum, 0.0);
}

Matrix SquaredDistances(const Matrix& inner_products) {
  const int64_t n = inner_products.rows;
  Matrix distances(n, n);
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t l = 0; l < k; ++l) {
      const double squared = inner_products(k, k) - 2 * inner_products(k, l) + inner_products(l, l);
      distances(k, l) = distances(l, k) = std::max(squared, 0.0);
    }
  }
  return distances;
}

void ForEachModule(int64_t count, int threads, const std::function<void(int64_t)>& work) {
  std::atomic<int64_t> next = 0;
  const auto run = [&] {
    for (int64_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::thread> helpers;
  for (int64_t t = 1; t < std::min<int64_t>(threads, count); ++t) helpers.emplace_back(run);
  run();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace weft::aggregators
