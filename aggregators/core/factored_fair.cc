#include "aggregators/core/factored_fair.h"

#include <eigen3/Eigen/Eigenvalues>

#include <algorithm>
#include <cmath>

#include "kernels/products.h"

namespace weft::aggregators {
namespace {

using Dense = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Eigen::MatrixXd;
using Eigen::VectorXd;

Eigen::Map<const Dense> View(const Matrix& matrix) { return {matrix.values.data(), matrix.rows, matrix.columns}; }

Matrix ToMatrix(const Dense& dense) {
  Matrix matrix(dense.rows(), dense.cols());
  std::copy_n(dense.data(), dense.size(), matrix.values.begin());
  return matrix;
}

// gram * w; the Gram is symmetric.
Dense Apply(const Matrix& gram, const Dense& w) {
  Dense out(w.rows(), w.cols());
  kernels::TransposedProduct(gram.values.data(), w.data(), gram.rows, gram.columns, w.cols(), out.data());
  return out;
}

// What the rule sees of the clients, as combinations of the stacked components: Bbar = B p, Abar = p^T A, C = B t.
struct Terms {
  Dense p;  // [components, r]
  Dense t;  // [components, r]
  Dense g;  // G, [r, r]
};

Terms MakeTerms(FactorStack& stack) {
  Terms terms;
  terms.p = View(stack.MeanCombination());
  const Dense inner = Apply(stack.GramA(), terms.p);  // A_k Abar^T, stacked
  terms.g = terms.p.transpose() * inner;
  const Eigen::Map<const VectorXd> weights(stack.weights().data(), stack.components());
  terms.t = weights.asDiagonal() * inner;
  return terms;
}

// The descent in coordinates: X = [Bbar C] U Q^T, with G = Q diag(g) Q^T, so that X G is U times a diagonal.
class Descent {
 public:
  Descent(const Terms& terms, const Dense& gram, double norm, double lambda)
      : rank_(terms.g.rows()), gram_(gram), norm_(norm), lambda_(lambda), eigen_(terms.g) {
    g_ = eigen_.eigenvalues().cwiseMax(0);
    start_ = Dense::Zero(2 * rank_, rank_);
    start_.topRows(rank_) = eigen_.eigenvectors();
    c_ = Dense::Zero(2 * rank_, rank_);
    c_.bottomRows(rank_) = eigen_.eigenvectors();
    gram_c_ = gram_ * c_;
  }

  struct Point {
    Dense u, gram_u;
    double inner = 0;   // <C, X>
    double length = 0;  // |X Abar|
    double cosine = 0, objective = 0;
  };

  Point At(const Dense& u) const {
    Point point = {u, gram_ * u};
    point.inner = gram_c_.cwiseProduct(u).sum();
    point.length = std::sqrt(std::max(0.0, (u.cwiseProduct(point.gram_u) * g_).sum()));
    point.cosine = point.length > 0 ? point.inner / (norm_ * point.length) : 0;
    point.objective = 1 - point.cosine + lambda_ * Length(u - start_);
    return point;
  }

  // One step of at most `*step`, which is halved until the objective falls. False when it does not.
  bool Lower(Point* point, double* step) const {
    const double q = norm_ * point->length;
    const Dense slope = point->inner / (q * point->length * point->length) * (point->u * g_.asDiagonal()) - c_ / q;
    for (int halvings = 0; halvings < 60; ++halvings, *step /= 2) {
      const Dense moved = point->u - *step * slope - start_;
      const double length = Length(moved);
      const double shrink = length > 0 ? std::max(0.0, 1 - *step * lambda_ / length) : 0;
      Point next = At(start_ + shrink * moved);
      if (next.length == 0 || !(next.objective < point->objective - 1e-12)) continue;
      *point = std::move(next);
      return true;
    }
    return false;
  }

  Dense start() const { return start_; }
  // The curvature of the cosine is at most of this size where X Abar has this length.
  double FirstStep(double length) const { return length * length / g_.maxCoeff(); }
  // Back in the coordinates of [Bbar C].
  Dense Coordinates(const Dense& u) const { return u * eigen_.eigenvectors().transpose(); }

 private:
  double Length(const Dense& u) const { return std::sqrt(std::max(0.0, u.cwiseProduct(gram_ * u).sum())); }

  const int64_t rank_;
  const MatrixXd gram_;  // of [Bbar C]
  const double norm_;    // |D|
  const double lambda_;
  const Eigen::SelfAdjointEigenSolver<MatrixXd> eigen_;
  VectorXd g_;
  Dense start_, c_, gram_c_;
};

}  // namespace

Matrix LeastSquaresB(FactorStack& stack, double lambda) {
  const Terms terms = MakeTerms(stack);
  const Eigen::SelfAdjointEigenSolver<MatrixXd> eigen(terms.g);
  const VectorXd values = eigen.eigenvalues().cwiseMax(0);
  const double floor = 1e-12 * values.maxCoeff();
  VectorXd inverse = VectorXd::Zero(values.size());
  for (int64_t j = 0; j < values.size(); ++j) {
    if (values[j] > floor || lambda > floor) inverse[j] = 1 / (values[j] + lambda);
  }
  const MatrixXd solved = eigen.eigenvectors() * inverse.asDiagonal() * eigen.eigenvectors().transpose();
  return stack.CombineB(ToMatrix((terms.t + lambda * terms.p) * solved));
}

CosineResult CosineB(FactorStack& stack, const CosineOptions& options) {
  const Terms terms = MakeTerms(stack);
  const int64_t n = stack.components(), rank = terms.g.rows();
  Dense basis(n, 2 * rank);
  basis << terms.p, terms.t;
  const Dense gram = basis.transpose() * Apply(stack.GramB(), basis);
  const Descent descent(terms, gram, std::sqrt(stack.SquaredNorm()), options.lambda);

  Descent::Point point = descent.At(descent.start());
  CosineResult result;
  if (!std::isfinite(point.cosine) || point.length == 0) {  // D or Bbar Abar is zero
    result.b = stack.CombineB(ToMatrix(terms.p));
    result.start_objective = result.objective = 1;
    return result;
  }
  result.start_cosine = point.cosine;
  result.start_objective = point.objective;
  double step = descent.FirstStep(point.length);
  while (result.steps < options.max_steps && descent.Lower(&point, &step)) {
    ++result.steps;
    step *= 2;
  }
  result.cosine = point.cosine;
  result.objective = point.objective;
  result.b = stack.CombineB(ToMatrix(basis * descent.Coordinates(point.u)));
  return result;
}

CosineValue EvaluateCosine(FactorStack& stack, const Matrix& x, double lambda) {
  const Terms terms = MakeTerms(stack);
  const Matrix c = stack.CombineB(ToMatrix(terms.t)), mean = stack.CombineB(ToMatrix(terms.p));
  const auto dense = View(x);
  const Dense xg = dense * terms.g, moved = dense - View(mean);
  const double norm = std::sqrt(stack.SquaredNorm()), length = std::sqrt(xg.cwiseProduct(dense).sum());
  const double inner = View(c).cwiseProduct(dense).sum(), distance = moved.norm();
  CosineValue value;
  value.cosine = inner / (norm * length);
  value.objective = 1 - value.cosine + lambda * distance;
  value.gradient =
      ToMatrix(inner / (norm * length * length * length) * xg - View(c) / (norm * length) + lambda / distance * moved);
  return value;
}

}  // namespace weft::aggregators
