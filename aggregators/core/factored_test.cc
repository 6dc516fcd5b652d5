#include "aggregators/core/factored.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <eigen3/Eigen/SVD>

#include <algorithm>
#include <atomic>

#include "aggregators/core/test_factors.h"

namespace weft::aggregators {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

// Relative to the dense matrix's norm. Measured: up to 3e-16.
constexpr double kTolerance = 2e-15;

double Off(const MatrixXd& found, const MatrixXd& expected) { return (found - expected).norm() / expected.norm(); }

int64_t NumericRank(const MatrixXd& dense) {
  const Eigen::JacobiSVD<MatrixXd> svd(dense);
  return (svd.singularValues().array() > 1e-12 * svd.singularValues()[0]).count();
}

// Not square, three clients.
TestClients Three() { return TestClients::Random(23, 14, {3, 3, 3}, 0.5, 1); }
// Of unequal ranks, too.
TestClients Mixed() { return TestClients::Random(23, 14, {4, 2, 3}, 0.5, 2); }

std::string Refusal(int64_t in, int64_t out, std::vector<ClientFactors> clients) {
  const auto stack = FactorStack::Create(in, out, std::move(clients));
  EXPECT_EQ(stack.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(stack.status().message());
}

TEST(FactorStackTest, Create_Refusals) {
  const std::vector<float> values(6);
  const std::span<const float> all = values, four = all.first(4);
  EXPECT_THAT(Refusal(3, 2, {}), HasSubstr("found no client"));
  EXPECT_THAT(Refusal(0, 2, {{all, four, 2, 1}}), HasSubstr("module of 0 inputs and 2 outputs"));
  EXPECT_THAT(Refusal(3, 2, {{all, four, 2, 1}, {all, four, 0, 1}}), HasSubstr("client number 1: found rank 0"));
  EXPECT_THAT(Refusal(3, 2, {{all, all, 2, 1}}),
              HasSubstr("found 6 values of A and 6 of B, expected 6 [rank, in] and 4"));
  EXPECT_THAT(Refusal(3, 2, {{all, four, 2, 1.0 / 0.0}}), HasSubstr("found weight inf"));
  EXPECT_TRUE(FactorStack::Create(3, 2, {{all, four, 2, 1}}).ok());
}

TEST(FactorStackTest, Grams_AreInnerProductsOfComponents) {
  const TestClients clients = Mixed();
  FactorStack stack = clients.Stack();
  ASSERT_EQ(stack.components(), 9);
  MatrixXd a(9, 23), b(14, 9);
  a << clients.A(0), clients.A(1), clients.A(2);
  b << clients.B(0), clients.B(1), clients.B(2);
  EXPECT_LT(Off(ToEigen(stack.GramA()), a * a.transpose()), kTolerance);
  EXPECT_LT(Off(ToEigen(stack.GramB()), b.transpose() * b), kTolerance);
}

TEST(FactorStackTest, Mean_PadsLowerRanksWithZeros) {
  const TestClients clients = Mixed();
  const Factors mean = clients.Stack().Mean();
  MatrixXd a = MatrixXd::Zero(4, 23), b = MatrixXd::Zero(14, 4);
  for (size_t k = 0; k < 3; ++k) {
    a.topRows(clients.clients[k].rank) += clients.clients[k].weight * clients.A(k);
    b.leftCols(clients.clients[k].rank) += clients.clients[k].weight * clients.B(k);
  }
  EXPECT_LT(Off(ToEigen(mean.a), a), kTolerance);
  EXPECT_LT(Off(ToEigen(mean.b), b), kTolerance);
}

TEST(FactorStackTest, Stacked_ProductIsIdeal) {
  // Unequal ranks, weights and scales.
  TestClients clients = Mixed();
  clients.clients[1].weight *= 4;
  EXPECT_LT(Off(Product(clients.Stack().Stacked()), clients.Ideal()), kTolerance);
  TestClients perturbed = clients;
  perturbed.clients[1].weight *= 1 + 1e-13;
  EXPECT_GT(Off(Product(perturbed.Stack().Stacked()), clients.Ideal()), kTolerance);
}

TEST(FactorStackTest, Residual_IsWhatAveragingLoses) {
  for (const TestClients& clients : {Three(), Mixed()}) {
    FactorStack stack = clients.Stack();
    const auto residual = stack.Residual();
    ASSERT_TRUE(residual.ok()) << residual.status();
    EXPECT_EQ(residual->a.rows, 2 * stack.max_rank());
    const MatrixXd mean = Product(stack.Mean()), whole = mean + Product(*residual);
    EXPECT_LT(Off(whole, clients.Ideal()), kTolerance);
    EXPECT_GT(Off(mean, clients.Ideal()), 0.05);  // there is something to lose
    TestClients perturbed = clients;
    perturbed.clients[0].b[0] *= 1 + 1e-6f;
    EXPECT_GT(Off(Product(perturbed.Stack().Mean()) + Product(*residual), clients.Ideal()), kTolerance);
  }
}

TEST(FactorStackTest, Residual_IsTheCovarianceOfItsRank) {
  const TestClients clients = Three();
  const Factors mean = clients.Stack().Mean();
  MatrixXd covariance = MatrixXd::Zero(14, 23);
  for (size_t k = 0; k < 3; ++k) {
    covariance += clients.clients[k].weight * (clients.B(k) - ToEigen(mean.b)) * (clients.A(k) - ToEigen(mean.a));
  }
  const Factors residual = *clients.Stack().Residual();
  EXPECT_LT(Off(Product(residual), covariance), kTolerance);
  EXPECT_EQ(NumericRank(Product(residual)), 6);
  EXPECT_EQ(NumericRank(clients.Ideal()), 9);
}

TEST(FactorStackTest, Residual_ZeroForOneClientAndForACommonFactor) {
  const TestClients alone = TestClients::Random(9, 7, {3}, 0.5, 3);
  EXPECT_EQ(alone.Stack().Residual()->a.rows, 0);
  TestClients common = Three();
  for (TestClient& client : common.clients) client.a = common.clients[0].a;
  EXPECT_LT(Product(*common.Stack().Residual()).norm(), kTolerance * common.Ideal().norm());
  common.clients[1].a[0] += 1e-3f;
  EXPECT_GT(Product(*common.Stack().Residual()).norm(), kTolerance * common.Ideal().norm());
  TestClients same_b = Three();
  for (TestClient& client : same_b.clients) client.b = same_b.clients[0].b;
  EXPECT_EQ(Product(*same_b.Stack().Residual()).norm(), 0);
}

TEST(FactorStackTest, Residual_WeightsMustSumToOne) {
  TestClients clients = Three();
  clients.clients[0].weight += 1e-6;
  const auto residual = clients.Stack().Residual();
  EXPECT_EQ(residual.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(residual.status().message(), HasSubstr("expected 1"));
}

TEST(FactorStackTest, InnerProducts_OfDenseProducts) {
  const TestClients clients = Mixed();
  FactorStack stack = clients.Stack();
  const Matrix inner = stack.InnerProducts(), distances = SquaredDistances(inner);
  for (size_t k = 0; k < 3; ++k) {
    for (size_t l = 0; l < 3; ++l) {
      const MatrixXd x = clients.B(k) * clients.A(k), y = clients.B(l) * clients.A(l);
      EXPECT_NEAR(inner(k, l), x.cwiseProduct(y).sum(), kTolerance * x.norm() * y.norm());
      EXPECT_NEAR(distances(k, l), (x - y).squaredNorm(), 4 * kTolerance * x.squaredNorm() + 1e-300);
    }
  }
  EXPECT_NEAR(stack.SquaredNorm(), clients.Ideal().squaredNorm(), kTolerance * clients.Ideal().squaredNorm());
  TestClients perturbed = clients;
  perturbed.clients[2].a[5] *= 1 + 1e-5f;
  EXPECT_GT(std::abs(perturbed.Stack().SquaredNorm() / clients.Ideal().squaredNorm() - 1), kTolerance);
}

TEST(FactorStackTest, InnerProducts_ClientsThatAgreeAreNoDistanceApart) {
  TestClients clients = Three();
  // The same product in another gauge: A doubled, B halved.
  clients.clients[1] = clients.clients[0];
  for (float& value : clients.clients[1].a) value *= 2;
  for (float& value : clients.clients[1].b) value /= 2;
  const Matrix inner = clients.Stack().InnerProducts();
  const Matrix distances = SquaredDistances(inner);
  EXPECT_EQ(distances(0, 1), 0);
  EXPECT_GT(distances(0, 2), 0.01 * inner(0, 0));
}

TEST(FactorStackTest, Combine_HugeAndTinyValues) {
  for (const float scale : {1e30f, 1e-30f}) {
    TestClients clients = Three();
    for (TestClient& client : clients.clients) {
      for (float& value : client.a) value *= scale;
      for (float& value : client.b) value *= scale;
    }
    FactorStack stack = clients.Stack();
    EXPECT_LT(Off(Product(stack.Mean()) + Product(*stack.Residual()), clients.Ideal()), kTolerance);
    EXPECT_NEAR(std::sqrt(stack.SquaredNorm()) / clients.Ideal().norm(), 1, kTolerance);
  }
}

TEST(MatrixTest, CopyTo_RoundsEachValue) {
  Matrix matrix(1, 2);
  matrix(0, 0) = 1 + 1e-12;
  matrix(0, 1) = 0.1;
  std::vector<float> to(2);
  matrix.CopyTo(to);
  EXPECT_THAT(to, ::testing::ElementsAre(1.0f, 0.1f));
}

TEST(ForEachModuleTest, ForEachModule_EachOnceForAnyThreads) {
  for (const int threads : {0, 1, 2, 5, 100}) {
    std::vector<std::atomic<int>> calls(17);
    ForEachModule(17, threads, [&](int64_t i) { ++calls[i]; });
    for (const auto& count : calls) EXPECT_EQ(count, 1);
  }
  ForEachModule(0, 4, [](int64_t) { FAIL(); });
}

TEST(ForEachModuleTest, ForEachModule_SameBitsForAnyThreads) {
  std::vector<std::vector<double>> results;
  for (const int threads : {1, 2, 7}) {
    std::vector<double> sums(12);
    ForEachModule(12, threads, [&](int64_t i) {
      const TestClients clients = TestClients::Random(40 + i, 30, {4, 4, 4, 4}, 1, i);
      FactorStack stack = clients.Stack();
      const Factors mean = stack.Mean();
      sums[i] = stack.SquaredNorm() + mean.a(0, 0) + mean.b(0, 0);
    });
    results.push_back(sums);
  }
  EXPECT_THAT(results, Each(results[0]));
}

}  // namespace
}  // namespace weft::aggregators
