#include "aggregators/core/factored_svd.h"

#include <eigen3/Eigen/Cholesky>
#include <eigen3/Eigen/Eigenvalues>
#include <eigen3/Eigen/QR>
#include <eigen3/Eigen/SVD>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "common/random.h"
#include "kernels/products.h"

namespace weft::aggregators {
namespace {

using Dense = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

// D = scale * sum_j gamma_j b_j a_j^T with unit vectors b_j, a_j and |gamma_j| <= 1: what a client's gauge (cA, B/c)
// does to the numbers is gone, and nothing over- or underflows.
struct Balanced {
  VectorXd gamma;
  VectorXd inverse_a, inverse_b;  // 1 over the length of each component, 0 where that is 0
  double scale = 0;               // 0: D is zero
};

double Inverse(double length) { return length > 0 ? 1 / length : 0; }

Balanced Balance(const FactorStack& stack, const VectorXd& lengths_a, const VectorXd& lengths_b) {
  Balanced balanced;
  balanced.inverse_a = lengths_a.unaryExpr(&Inverse);
  balanced.inverse_b = lengths_b.unaryExpr(&Inverse);
  balanced.gamma = Eigen::Map<const VectorXd>(stack.weights().data(), stack.components())
                       .cwiseProduct(lengths_a)
                       .cwiseProduct(lengths_b);
  balanced.scale = balanced.gamma.cwiseAbs().maxCoeff();
  if (balanced.scale > 0) balanced.gamma /= balanced.scale;
  return balanced;
}

// out = a^T b.
Dense TransposedProduct(const Dense& a, const Dense& b) {
  Dense out(a.cols(), b.cols());
  kernels::TransposedProduct(a.data(), b.data(), a.rows(), a.cols(), b.cols(), out.data());
  return out;
}

Matrix ToMatrix(const Dense& dense) {
  Matrix matrix(dense.rows(), dense.cols());
  std::copy_n(dense.data(), dense.size(), matrix.values.begin());
  return matrix;
}

// A symmetric tridiagonal matrix minus a shift, factored by Gaussian elimination with row exchanges.
class ShiftedTridiagonal {
 public:
  ShiftedTridiagonal(const VectorXd& diagonal, const VectorXd& off, double shift, double tiny)
      : n_(diagonal.size()), upper_(n_, 3), factor_(n_), swapped_(n_) {
    Eigen::RowVector3d row(diagonal[0] - shift, n_ > 1 ? off[0] : 0, 0);
    for (int64_t i = 0; i < n_; ++i) {
      factor_[i] = swapped_[i] = 0;
      Eigen::RowVector3d next(0, 0, 0);
      if (i + 1 < n_) {
        next << off[i], diagonal[i + 1] - shift, i + 2 < n_ ? off[i + 1] : 0;
        swapped_[i] = std::abs(next[0]) > std::abs(row[0]);
        if (swapped_[i]) std::swap(row, next);
      }
      if (std::abs(row[0]) < tiny) row[0] = tiny;
      factor_[i] = next[0] / row[0];
      upper_.row(i) = row;
      row << next[1] - factor_[i] * row[1], next[2] - factor_[i] * row[2], 0;
    }
  }

  void Solve(VectorXd* x) const {
    for (int64_t i = 0; i + 1 < n_; ++i) {
      if (swapped_[i]) std::swap((*x)[i], (*x)[i + 1]);
      (*x)[i + 1] -= factor_[i] * (*x)[i];
    }
    for (int64_t i = n_ - 1; i >= 0; --i) {
      double sum = (*x)[i];
      if (i + 1 < n_) sum -= upper_(i, 1) * (*x)[i + 1];
      if (i + 2 < n_) sum -= upper_(i, 2) * (*x)[i + 2];
      (*x)[i] = sum / upper_(i, 0);
    }
  }

 private:
  int64_t n_;
  Eigen::Matrix<double, Eigen::Dynamic, 3> upper_;
  VectorXd factor_;
  Eigen::VectorXi swapped_;
};

// The `count` largest eigenvalues of a symmetric tridiagonal matrix, descending, to rounding relative to `size`, a
// bound of their magnitudes: bisection on how many are above a point, which the signs of an elimination's pivots say.
VectorXd LargestEigenvalues(const VectorXd& diagonal, const VectorXd& off, int64_t count, double size) {
  using Eigen::ArrayXd;
  ArrayXd low = ArrayXd::Constant(count, -size), high = ArrayXd::Constant(count, size);
  const ArrayXd wanted = ArrayXd::LinSpaced(count, 1, static_cast<double>(count));
  const double tiny = kEpsilon * kEpsilon * size;
  ArrayXd middle, pivot(count), above(count);
  for (int round = 0; round < 54; ++round) {
    middle = (low + high) / 2;
    pivot = diagonal[0] - middle;
    above = (pivot > 0).cast<double>();
    for (int64_t i = 1; i < diagonal.size(); ++i) {
      pivot = (pivot.abs() < tiny).select(-tiny, pivot);
      pivot = diagonal[i] - middle - off[i - 1] * off[i - 1] / pivot;
      above += (pivot > 0).cast<double>();
    }
    low = (above >= wanted).select(middle, low);
    high = (above >= wanted).select(high, middle);
  }
  return (low + high) / 2;
}

struct Eigenpairs {
  VectorXd values;  // descending
  Dense vectors;    // a column each
};

// The `count` largest of a symmetric matrix: Householder tridiagonalisation, bisection, and the vectors by inverse
// iteration, each orthogonalised against those before it. Nothing when a vector does not converge.
std::optional<Eigenpairs> LargestEigenpairs(const MatrixXd& matrix, int64_t count) {
  const int64_t n = matrix.rows();
  const Eigen::Tridiagonalization<MatrixXd> tridiagonal(matrix);
  const VectorXd diagonal = tridiagonal.diagonal(), off = tridiagonal.subDiagonal();
  // No row of magnitudes sums to more (Gershgorin).
  const double size = diagonal.cwiseAbs().maxCoeff() + 2 * (n > 1 ? off.cwiseAbs().maxCoeff() : 0);
  Eigenpairs pairs = {LargestEigenvalues(diagonal, off, count, size), {}};
  MatrixXd vectors(n, count);
  for (int64_t j = 0; j < count; ++j) {
    const ShiftedTridiagonal shifted(diagonal, off, pairs.values[j], kEpsilon * size);
    Philox random(j, StreamId("inverse iteration"));
    VectorXd x(n);
    for (double& value : x) value = random.NextDouble() - 0.5;
    for (int round = 0; round < 4; ++round) {
      shifted.Solve(&x);
      x /= x.cwiseAbs().maxCoeff();
      for (int twice = 0; twice < 2; ++twice) x -= vectors.leftCols(j) * (vectors.leftCols(j).transpose() * x);
      x.normalize();
    }
    VectorXd residual = diagonal.cwiseProduct(x) - pairs.values[j] * x;
    residual.head(n - 1) += off.cwiseProduct(x.tail(n - 1));
    residual.tail(n - 1) += off.cwiseProduct(x.head(n - 1));
    if (!(residual.norm() <= 1e-11 * size)) return std::nullopt;
    vectors.col(j) = x;
  }
  pairs.vectors = tridiagonal.matrixQ() * vectors;
  return pairs;
}

struct Decomposition {
  Factors factors;  // orthonormal rows of a, orthogonal columns of b
  VectorXd sigma;   // the columns' lengths
};

// With R = [rows a_j sqrt|gamma_j|] = C Q^T for orthonormal Q, and L = [columns +-b_j sqrt|gamma_j|], D^T D = Q H Q^T
// where H = C^T (L^T L) C. From the leading eigenvectors Z of H: A = V^T = (1/sigma^2) Z^T C^T (L^T L) R, which needs
// no inverse of C; it is orthonormalised, and B = D A^T is projected exactly, so errors of Z enter squared only.
std::optional<Decomposition> ByGram(FactorStack& stack, int64_t rank) {
  const int64_t n = stack.components();
  if (rank > std::min({n, stack.in(), stack.out()})) return std::nullopt;
  const Eigen::Map<const Dense> raw_a(stack.GramA().values.data(), n, n), raw_b(stack.GramB().values.data(), n, n);
  const Balanced balanced = Balance(stack, raw_a.diagonal().cwiseSqrt(), raw_b.diagonal().cwiseSqrt());
  if (balanced.scale == 0) return std::nullopt;
  const VectorXd root = balanced.gamma.cwiseAbs().cwiseSqrt();
  const VectorXd scale_a = root.cwiseProduct(balanced.inverse_a);
  const VectorXd scale_b = root.cwiseProduct(balanced.inverse_b).cwiseProduct(balanced.gamma.cwiseSign());
  const Dense gram_r = scale_a.asDiagonal() * raw_a * scale_a.asDiagonal();
  const Dense gram_l = scale_b.asDiagonal() * raw_b * scale_b.asDiagonal();

  const Eigen::LDLT<MatrixXd> ldlt(gram_r);
  Dense c = ldlt.matrixL();
  c *= ldlt.vectorD().cwiseMax(0).cwiseSqrt().asDiagonal();
  c = ldlt.transpositionsP().transpose() * c;
  const Dense gram_l_c = TransposedProduct(gram_l, c);
  MatrixXd h(n, n);  // symmetric: the order of its values does not matter
  kernels::SymmetricTransposedProduct(c.data(), gram_l_c.data(), n, n, h.data());
  const std::optional<Eigenpairs> top = LargestEigenpairs(h, rank);
  if (!top || !(top->values[rank - 1] >= 1e-8 * gram_l.norm() * gram_r.norm())) return std::nullopt;

  Dense y = gram_l_c * top->vectors * top->values.cwiseInverse().asDiagonal();
  Dense projected = TransposedProduct(gram_r, y);
  const Eigen::LLT<MatrixXd> overlap(y.transpose() * projected);
  if (overlap.info() != Eigen::Success) return std::nullopt;
  overlap.matrixU().solveInPlace<Eigen::OnTheRight>(y);
  overlap.matrixU().solveInPlace<Eigen::OnTheRight>(projected);
  const Eigen::SelfAdjointEigenSolver<MatrixXd> turn(projected.transpose() * TransposedProduct(gram_l, projected));
  const MatrixXd rotation = turn.eigenvectors().rowwise().reverse();

  const Matrix w_a = ToMatrix(scale_a.asDiagonal() * (y * rotation));
  const Matrix w_b = ToMatrix(balanced.scale * (scale_b.asDiagonal() * (projected * rotation)));
  return Decomposition{{stack.CombineA(w_a), stack.CombineB(w_b)},
                       balanced.scale * turn.eigenvalues().reverse().cwiseMax(0).cwiseSqrt()};
}

// Makes the columns of `a` from `done` on orthonormal to all before, as long as there is room: from what each candidate
// adds, then from what unit vectors add.
void Complete(const MatrixXd& candidates, int64_t done, MatrixXd* a) {
  constexpr double kEnough = 1e-3;  // of a unit vector; some unit vector has 1 / sqrt(rows) left
  const int64_t rows = a->rows(), wanted = std::min(rows, a->cols());
  for (int64_t k = 0; done < wanted && k < candidates.cols() + rows; ++k) {
    VectorXd x = k < candidates.cols() ? VectorXd(candidates.col(k)) : VectorXd::Unit(rows, k - candidates.cols());
    for (int twice = 0; twice < 2; ++twice) x -= a->leftCols(done) * (a->leftCols(done).transpose() * x);
    if (x.norm() > kEnough) a->col(done++) = x.normalized();
  }
}

// QR of the unit components of both sides; the core is R_L diag(gamma) R_R^T.
Decomposition ByQr(const FactorStack& stack, int64_t rank) {
  const int64_t n = stack.components(), in = stack.in(), out = stack.out();
  MatrixXd left(out, n), right(in, n);
  int64_t j = 0;
  for (const ClientFactors& client : stack.clients()) {
    for (int64_t c = 0; c < client.rank; ++c, ++j) {
      for (int64_t d = 0; d < out; ++d) left(d, j) = client.b[d * client.rank + c];
      for (int64_t d = 0; d < in; ++d) right(d, j) = client.a[c * in + d];
    }
  }
  const Balanced balanced = Balance(stack, right.colwise().norm(), left.colwise().norm());
  const Eigen::HouseholderQR<MatrixXd> qr_l(left * balanced.inverse_b.asDiagonal());
  const Eigen::HouseholderQR<MatrixXd> qr_r(right * balanced.inverse_a.asDiagonal());
  const int64_t rows_l = std::min(out, n), rows_r = std::min(in, n), found = std::min({rank, rows_l, rows_r});
  const MatrixXd upper_l = qr_l.matrixQR().topRows(rows_l).triangularView<Eigen::Upper>();
  const MatrixXd upper_r = qr_r.matrixQR().topRows(rows_r).triangularView<Eigen::Upper>();
  const Eigen::BDCSVD<MatrixXd> core(upper_l * balanced.gamma.asDiagonal() * upper_r.transpose(),
                                     Eigen::ComputeThinU | Eigen::ComputeThinV);

  // What is rounding alone counts as zero; scales of B and A have no say in it.
  VectorXd sigma = VectorXd::Zero(rank);
  sigma.head(found) = core.singularValues().head(found);
  const double noise = kEpsilon * static_cast<double>(n) * balanced.gamma.cwiseAbs().sum();
  const int64_t true_rank = (sigma.array() > noise).count();
  sigma.tail(rank - true_rank).setZero();

  MatrixXd a = MatrixXd::Zero(in, rank), b = MatrixXd::Zero(out, rank);
  b.topLeftCorner(rows_l, true_rank) = core.matrixU().leftCols(true_rank) * sigma.head(true_rank).asDiagonal();
  b.applyOnTheLeft(qr_l.householderQ());
  a.topLeftCorner(rows_r, true_rank) = core.matrixV().leftCols(true_rank);
  a.applyOnTheLeft(qr_r.householderQ());
  Complete(right * balanced.inverse_a.asDiagonal(), true_rank, &a);
  return {{ToMatrix(a.transpose()), ToMatrix(balanced.scale * b)}, balanced.scale * sigma};
}

Svd Finish(Decomposition parts, bool split) {
  Eigen::Map<Dense> a(parts.factors.a.values.data(), parts.factors.a.rows, parts.factors.a.columns);
  Eigen::Map<Dense> b(parts.factors.b.values.data(), parts.factors.b.rows, parts.factors.b.columns);
  Eigen::RowVectorXd to_b(parts.sigma.size());
  for (int64_t j = 0; j < parts.sigma.size(); ++j) {
    Eigen::Index largest;
    a.row(j).cwiseAbs().maxCoeff(&largest);
    const double sign = a(j, largest) < 0 ? -1 : 1;
    const double to_a = split && parts.sigma[j] > 0 ? std::sqrt(parts.sigma[j]) : 1;
    a.row(j) *= sign * to_a;
    to_b[j] = sign / to_a;
  }
  b *= to_b.asDiagonal();
  return {std::move(parts.factors), {parts.sigma.begin(), parts.sigma.end()}, false};
}

}  // namespace

Svd TruncatedSvd(FactorStack& stack, const SvdOptions& options) {
  constexpr int64_t kFewComponents = 64;
  std::optional<Decomposition> parts;
  if (options.method == SvdMethod::kGram ||
      (options.method == SvdMethod::kAuto && stack.components() >= kFewComponents)) {
    parts = ByGram(stack, options.rank);
  }
  const bool by_gram = parts.has_value();
  Svd svd = Finish(by_gram ? *std::move(parts) : ByQr(stack, options.rank), options.split);
  svd.by_gram = by_gram;
  return svd;
}

}  // namespace weft::aggregators
