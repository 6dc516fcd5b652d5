#include "aggregators/core/factored_fair.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <eigen3/Eigen/LU>

#include <cmath>

#include "aggregators/core/test_factors.h"

namespace weft::aggregators {
namespace {

double Off(const MatrixXd& found, const MatrixXd& expected) { return (found - expected).norm() / expected.norm(); }
double Cosine(const MatrixXd& x, const MatrixXd& y) { return x.cwiseProduct(y).sum() / (x.norm() * y.norm()); }

Matrix ToMatrix(const MatrixXd& dense) {
  Matrix matrix(dense.rows(), dense.cols());
  for (int64_t i = 0; i < dense.rows(); ++i) {
    for (int64_t j = 0; j < dense.cols(); ++j) matrix(i, j) = dense(i, j);
  }
  return matrix;
}

// Abar and Bbar of clients, one of fewer components, and D.
struct Averages {
  MatrixXd a, b, ideal;
  explicit Averages(const TestClients& clients) : ideal(clients.Ideal()) {
    const Factors mean = clients.Stack().Mean();
    a = ToEigen(mean.a);
    b = ToEigen(mean.b);
  }
};

TestClients Clients() { return TestClients::Random(31, 22, {4, 2, 4, 4}, 0.8, 5); }

TEST(LeastSquaresBTest, LeastSquaresB_IsTheDenseSolution) {
  const TestClients clients = Clients();
  const Averages mean(clients);
  for (const double lambda : {0.0, 0.3, 50.0}) {
    FactorStack stack = clients.Stack();
    const MatrixXd system = mean.a * mean.a.transpose() + lambda * MatrixXd::Identity(4, 4);
    const MatrixXd expected = (mean.ideal * mean.a.transpose() + lambda * mean.b) * system.inverse();
    EXPECT_LT(Off(ToEigen(LeastSquaresB(stack, lambda)), expected), 1e-14);  // measured: 1e-15
    EXPECT_GT(Off(ToEigen(LeastSquaresB(stack, lambda + 1e-10)), expected), 1e-14);
  }
}

TEST(LeastSquaresBTest, LeastSquaresB_NothingIsCloserAndCosineIsHighest) {
  const TestClients clients = Clients();
  const Averages mean(clients);
  FactorStack stack = clients.Stack();
  const MatrixXd best = ToEigen(LeastSquaresB(stack, 0));
  const double error = (mean.ideal - best * mean.a).norm();
  EXPECT_LT(error, 0.99 * (mean.ideal - mean.b * mean.a).norm());
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Philox random(seed, 0);
    MatrixXd other = best;
    for (double& value : other.reshaped()) value += 0.01 * random.NextNormal();
    EXPECT_GT((mean.ideal - other * mean.a).norm(), error);
    EXPECT_LT(Cosine(mean.ideal, other * mean.a), Cosine(mean.ideal, best * mean.a));
  }
}

TEST(LeastSquaresBTest, LeastSquaresB_LargeLambdaGivesTheMean) {
  const TestClients clients = Clients();
  const Averages mean(clients);
  FactorStack stack = clients.Stack();
  EXPECT_LT(Off(ToEigen(LeastSquaresB(stack, 1e12)), mean.b), 1e-9);
  EXPECT_GT(Off(ToEigen(LeastSquaresB(stack, 1e3)), mean.b), 1e-9);
}

TEST(LeastSquaresBTest, LeastSquaresB_SingularGram) {
  TestClients clients = Clients();
  for (TestClient& client : clients.clients) {
    for (int64_t i = 0; i < clients.in; ++i) client.a[clients.in + i] = 2 * client.a[i];  // rows 0 and 1 parallel
  }
  const Averages mean(clients);
  FactorStack stack = clients.Stack();
  const MatrixXd x = ToEigen(LeastSquaresB(stack, 0));
  // The normal equations hold, and x is no larger than it must be: orthogonal to the null space of G.
  const MatrixXd left = (mean.ideal - x * mean.a) * mean.a.transpose();
  EXPECT_LT(left.norm(), 1e-12 * mean.ideal.norm() * mean.a.norm());
  EXPECT_LT((x.col(1) - 2 * x.col(0)).norm(), 1e-12 * x.norm());
  // A ridge keeps B near Bbar in what G does not determine.
  EXPECT_GT((ToEigen(LeastSquaresB(stack, 0.1)).col(1) - 2 * x.col(0)).norm(), 1e-3 * x.norm());
}

TEST(LeastSquaresBTest, LeastSquaresB_OneClientIsItself) {
  const TestClients alone = TestClients::Random(31, 22, {4}, 1, 6);
  FactorStack stack = alone.Stack();
  EXPECT_LT(Off(ToEigen(LeastSquaresB(stack, 0)), alone.B(0)), 1e-13);
  EXPECT_LT(Off(ToEigen(LeastSquaresB(stack, 0.5)), alone.B(0)), 1e-13);
}

TEST(LeastSquaresBTest, LeastSquaresB_Zero) {
  TestClients clients = Clients();
  for (TestClient& client : clients.clients) std::fill(client.a.begin(), client.a.end(), 0.0f);
  FactorStack stack = clients.Stack();
  EXPECT_EQ(ToEigen(LeastSquaresB(stack, 0)).norm(), 0);  // nothing is determined: the X of least norm
  EXPECT_LT(Off(ToEigen(LeastSquaresB(stack, 0.1)), Averages(clients).b), 1e-15);
}

TEST(EvaluateCosineTest, EvaluateCosine_GradientIsTheDifferenceQuotient) {
  const TestClients clients = Clients();
  const Averages mean(clients);
  FactorStack stack = clients.Stack();
  const MatrixXd x = mean.b + 0.3 * clients.B(0);
  const double lambda = 0.07, step = 1e-5;
  const CosineValue at = EvaluateCosine(stack, ToMatrix(x), lambda);
  EXPECT_NEAR(at.cosine, Cosine(mean.ideal, x * mean.a), 1e-14);
  EXPECT_NEAR(at.objective, 1 - at.cosine + lambda * (x - mean.b).norm(), 1e-14);
  double largest = 0;
  for (int64_t i = 0; i < 22; ++i) {
    for (int64_t j = 0; j < 4; ++j) {
      MatrixXd more = x, less = x;
      more(i, j) += step;
      less(i, j) -= step;
      const double quotient = (EvaluateCosine(stack, ToMatrix(more), lambda).objective -
                               EvaluateCosine(stack, ToMatrix(less), lambda).objective) /
                              (2 * step);
      EXPECT_NEAR(at.gradient(i, j), quotient, 1e-10);  // measured: 1e-11
      largest = std::max(largest, std::abs(at.gradient(i, j)));
    }
  }
  EXPECT_GT(largest, 1e-3);
  const CosineValue wrong = EvaluateCosine(stack, ToMatrix(x), lambda * 1.0001);
  EXPECT_GT((ToEigen(wrong.gradient) - ToEigen(at.gradient)).cwiseAbs().maxCoeff(), 1e-10);
}

TEST(CosineBTest, CosineB_ObjectiveNeverRisesAndCosineGrows) {
  const TestClients clients = Clients();
  const Averages mean(clients);
  double before = 1e9;
  for (int64_t steps = 0; steps < 40; ++steps) {
    FactorStack stack = clients.Stack();
    const CosineResult result = CosineB(stack, {0.003, steps});
    EXPECT_LE(result.objective, before);
    EXPECT_LE(result.steps, steps);
    before = result.objective;
    // What it says of the result is so.
    const MatrixXd x = ToEigen(result.b);
    EXPECT_NEAR(result.start_cosine, Cosine(mean.ideal, mean.b * mean.a), 1e-13);
    EXPECT_NEAR(result.cosine, Cosine(mean.ideal, x * mean.a), 1e-13);
    EXPECT_NEAR(result.objective, 1 - result.cosine + 0.003 * (x - mean.b).norm(), 1e-13);
    if (steps == 0) {
      EXPECT_LT(Off(x, mean.b), 1e-14);
    }
    if (steps == 39) {
      EXPECT_GT(result.cosine, result.start_cosine + 0.003);
      EXPECT_LT(result.objective, result.start_objective - 0.001);
    }
  }
}

TEST(CosineBTest, CosineB_EndsWhereTheGradientVanishes) {
  const TestClients clients = Clients();
  FactorStack stack = clients.Stack();
  const CosineResult result = CosineB(stack, {0.003, 100000});
  EXPECT_LT(result.steps, 100000);
  const double slope = ToEigen(EvaluateCosine(stack, result.b, 0.003).gradient).norm();
  const double early = ToEigen(EvaluateCosine(stack, CosineB(stack, {0.003, 3}).b, 0.003).gradient).norm();
  EXPECT_LT(slope, 3e-7);  // measured: 4e-8
  EXPECT_GT(early, 1e-4);
}

TEST(CosineBTest, CosineB_WithoutPenaltyReachesTheCeiling) {
  const TestClients clients = Clients();
  const Averages mean(clients);
  FactorStack stack = clients.Stack();
  const CosineResult result = CosineB(stack, {0, 100000});
  const double ceiling = Cosine(mean.ideal, ToEigen(LeastSquaresB(stack, 0)) * mean.a);
  EXPECT_NEAR(result.cosine, ceiling, 1e-9);
  EXPECT_LT(result.cosine, ceiling + 1e-14);
  EXPECT_LT(CosineB(stack, {0, 3}).cosine, ceiling - 1e-9);
}

TEST(CosineBTest, CosineB_LargePenaltyKeepsTheMean) {
  const TestClients clients = Clients();
  FactorStack stack = clients.Stack();
  const CosineResult result = CosineB(stack, {10, 100});
  EXPECT_EQ(result.steps, 0);
  EXPECT_LT(Off(ToEigen(result.b), Averages(clients).b), 1e-14);
}

TEST(CosineBTest, CosineB_OneClientIsItself) {
  const TestClients alone = TestClients::Random(31, 22, {4}, 1, 6);
  FactorStack stack = alone.Stack();
  const CosineResult result = CosineB(stack, {});
  EXPECT_NEAR(result.start_cosine, 1, 1e-14);
  EXPECT_LT(Off(ToEigen(result.b), alone.B(0)), 1e-6);
}

TEST(CosineBTest, CosineB_ZeroIdealOrZeroMeanKeepsTheMean) {
  TestClients zero = Clients();
  for (TestClient& client : zero.clients) std::fill(client.b.begin(), client.b.end(), 0.0f);
  FactorStack stack = zero.Stack();
  const CosineResult none = CosineB(stack, {});
  EXPECT_EQ(ToEigen(none.b).norm(), 0);
  EXPECT_EQ(none.steps, 0);
  // Opposite B: their mean is zero, D is not.
  TestClients opposite = TestClients::Random(31, 22, {4, 4}, 1, 7);
  opposite.clients[1].b = opposite.clients[0].b;
  for (float& value : opposite.clients[1].b) value = -value;
  for (TestClient& client : opposite.clients) client.weight = 0.5;
  FactorStack cancelled = opposite.Stack();
  EXPECT_EQ(ToEigen(CosineB(cancelled, {}).b).norm(), 0);
}

TEST(CosineBTest, CosineB_HugeAndTinyValues) {
  for (const float scale : {1e15f, 1e-15f}) {
    TestClients clients = Clients();
    for (TestClient& client : clients.clients) {
      for (float& value : client.a) value *= scale;
      for (float& value : client.b) value *= scale;
    }
    FactorStack stack = clients.Stack();
    const CosineResult result = CosineB(stack, {0, 1000});
    EXPECT_GT(result.cosine, result.start_cosine + 0.003);
    const double ceiling = Cosine(clients.Ideal(), ToEigen(LeastSquaresB(stack, 0)) * Averages(clients).a);
    EXPECT_NEAR(result.cosine, ceiling, 1e-6);
  }
}

}  // namespace
}  // namespace weft::aggregators
