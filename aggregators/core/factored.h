#ifndef WEFT_AGGREGATORS_CORE_FACTORED_H_
#define WEFT_AGGREGATORS_CORE_FACTORED_H_

// Linear algebra of the products B_k A_k of one module, in factored form: an out x in matrix is never formed. What a
// rule on products needs of its clients is in the inner products of their components (rows of A, columns of B), two
// matrices of all components squared, and in linear combinations of the components. factored_svd.h and factored_fair.h
// build on both.
//
// The ideal update of a round is D = sum_k w_k B_k A_k. Factors come as fp32; everything is computed in fp64, and has
// the same bits on every SIMD target and for any number of threads (a module is one thread's). It depends on the order
// of the clients in the last bits: callers give them sorted by client id.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

namespace weft::aggregators {

// Row-major.
struct Matrix {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<double> values;

  Matrix() = default;
  Matrix(int64_t rows, int64_t columns) : rows(rows), columns(columns), values(rows * columns) {}
  double& operator()(int64_t i, int64_t j) { return values[i * columns + j]; }
  double operator()(int64_t i, int64_t j) const { return values[i * columns + j]; }
  // Rounds each value once. `to` has rows * columns values.
  void CopyTo(std::span<float> to) const;
};

// The product b * a.
struct Factors {
  Matrix a;  // [rank, in]
  Matrix b;  // [out, rank]
};

// One client's factors of a module, row-major. Refers to the values, which are finite.
struct ClientFactors {
  std::span<const float> a;  // [rank, in]
  std::span<const float> b;  // [out, rank]
  int64_t rank = 0;
  double weight = 0;  // w_k: the client's share p_k, times its scale where scales differ
};

// The factors of all clients of a round for one module. Refers to their values. Not thread-safe, for what is computed
// is kept; a stack for each module, and ForEachModule, make use of threads.
class FactorStack {
 public:
  // INVALID_ARGUMENT: no client, a dimension or rank below 1, a span of another size, a weight that is not finite.
  static absl::StatusOr<FactorStack> Create(int64_t in, int64_t out, std::vector<ClientFactors> clients);

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  const std::vector<ClientFactors>& clients() const { return clients_; }
  // Of all clients together: component j of the stack is row j of [A_1; ..; A_K] and column j of [B_1 .. B_K].
  int64_t components() const { return static_cast<int64_t>(weights_.size()); }
  // The largest of a client. One with fewer components counts as padded with zeros.
  int64_t max_rank() const { return max_rank_; }
  // The client's weight, for each component.
  const std::vector<double>& weights() const { return weights_; }

  // Inner products of the rows of A, and of the columns of B: [components, components].
  const Matrix& GramA();
  const Matrix& GramB();
  // Linear combinations, one for each column of w [components, n]: [n, in] and [out, n].
  Matrix CombineA(const Matrix& w) const;
  Matrix CombineB(const Matrix& w) const;
  // The w that gives the weighted sums: [components, max_rank].
  Matrix MeanCombination() const;

  // sum_k w_k A_k and sum_k w_k B_k.
  Factors Mean() const;
  // [w_1 A_1; ..; w_K A_K] and [B_1 .. B_K], whose product is D (Wang et al., arXiv 2409.05976).
  Factors Stacked() const;
  // D - Bbar Abar, the part that averaging the factors loses (Singhal et al., arXiv 2410.09432), exactly, of rank
  // (K - 1) max_rank: with the last client K, sum_{k<K} w_k (B_k - B_K) (A_k - Abar), which equals the covariance
  // sum_k w_k (B_k - Bbar)(A_k - Abar) since the latter's A sides sum to zero. One client: rank 0.
  // FAILED_PRECONDITION when the weights do not sum to 1 within 1e-9, which this needs.
  absl::StatusOr<Factors> Residual() const;

  // <B_k A_k, B_l A_l> of every two clients, without weights: [K, K].
  Matrix InnerProducts();
  // |D|_F^2.
  double SquaredNorm();

 private:
  FactorStack() = default;
  int64_t in_ = 0;
  int64_t out_ = 0;
  int64_t max_rank_ = 0;
  std::vector<ClientFactors> clients_;
  std::vector<double> weights_;
  std::vector<const float*> rows_a_, columns_b_;  // first value of each component
  std::vector<int64_t> strides_a_, strides_b_;
  Matrix gram_a_, gram_b_;  // empty until asked for
};

// |x_k - x_l|^2 of every two, from their inner products. Differences below about 1e-8 of the larger norm drown in
// rounding; never negative, zero on the diagonal.
Matrix SquaredDistances(const Matrix& inner_products);

// Calls work(i) once for every 0 <= i < count, on up to `threads` threads, and waits. Calls must not touch each other's
// results; then these do not depend on `threads`.
void ForEachModule(int64_t count, int threads, const std::function<void(int64_t)>& work);

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_FACTORED_H_
