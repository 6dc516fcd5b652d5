#include "aggregators/core/factored_svd.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <eigen3/Eigen/SVD>

#include <algorithm>
#include <cmath>

#include "aggregators/core/test_factors.h"

namespace weft::aggregators {
namespace {

using ::testing::Each;

struct Dense {
  MatrixXd best;           // of the rank
  Eigen::VectorXd values;  // all
};

Dense DenseSvd(const MatrixXd& d, int64_t rank) {
  const Eigen::JacobiSVD<MatrixXd> svd(d, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return {svd.matrixU().leftCols(rank) * svd.singularValues().head(rank).asDiagonal() *
              svd.matrixV().leftCols(rank).transpose(),
          svd.singularValues()};
}

double Off(const MatrixXd& found, const MatrixXd& expected) { return (found - expected).norm() / expected.norm(); }

// How far the rows are from orthonormal.
double Skew(const Matrix& a) {
  const MatrixXd rows = ToEigen(a);
  return (rows * rows.transpose() - MatrixXd::Identity(a.rows, a.rows)).norm();
}

// 80 components: as many as kAuto asks for.
TestClients Five() { return TestClients::Random(130, 97, {16, 16, 16, 16, 16}, 0.4, 1); }

TEST(TruncatedSvdTest, TruncatedSvd_IsTheDenseOne) {
  const TestClients mixed = TestClients::Random(31, 22, {4, 2, 3}, 0.5, 2);
  for (const auto& [clients, rank] : {std::pair(mixed, 4), std::pair(Five(), 16), std::pair(Five(), 3)}) {
    const Dense dense = DenseSvd(clients.Ideal(), rank);
    for (const SvdMethod method : {SvdMethod::kQr, SvdMethod::kGram}) {
      FactorStack stack = clients.Stack();
      const Svd svd = TruncatedSvd(stack, {rank, false, method});
      EXPECT_EQ(svd.by_gram, method == SvdMethod::kGram);
      // Measured: up to 4e-14 (the dense one's own errors among them), and 7e-15.
      EXPECT_LT(Off(Product(svd.factors), dense.best), 3e-13);
      EXPECT_LT(Skew(svd.factors.a), 1e-13);
      for (int64_t j = 0; j < rank; ++j) {
        EXPECT_NEAR(svd.singular_values[j], dense.values[j], 1e-12 * dense.values[0]);
        EXPECT_NEAR(ToEigen(svd.factors.b).col(j).norm(), dense.values[j], 1e-12 * dense.values[0]);
        EXPECT_LE(svd.singular_values[j], svd.singular_values[std::max<int64_t>(j - 1, 0)]);
      }
      // What is cut off is the tail, and no other rank-r matrix loses less.
      const double tail = dense.values.tail(dense.values.size() - rank).norm();
      EXPECT_NEAR((clients.Ideal() - Product(svd.factors)).norm(), tail, 1e-11 * dense.values[0]);
      TestClients perturbed = clients;
      perturbed.clients[0].a[0] *= 1 + 1e-6f;
      FactorStack other = perturbed.Stack();
      EXPECT_GT(Off(Product(TruncatedSvd(other, {rank, false, method}).factors), dense.best), 3e-13);
    }
  }
}

TEST(TruncatedSvdTest, TruncatedSvd_OneProductIsItself) {
  // As of FedSVD, and of any rule with a single client.
  const TestClients alone = TestClients::Random(50, 70, {8}, 1, 3);
  FactorStack stack = alone.Stack();
  const Svd svd = TruncatedSvd(stack, {.rank = 8});
  EXPECT_LT(Off(Product(svd.factors), alone.Ideal()), 1e-14);
  EXPECT_LT(Skew(svd.factors.a), 1e-14);
  EXPECT_GT(Off(Product(TruncatedSvd(stack, {.rank = 7}).factors), alone.Ideal()), 1e-3);
}

TEST(TruncatedSvdTest, TruncatedSvd_SplitPutsRootsToBothSides) {
  const TestClients clients = Five();
  FactorStack stack = clients.Stack();
  const Svd whole = TruncatedSvd(stack, {.rank = 16}), split = TruncatedSvd(stack, {.rank = 16, .split = true});
  EXPECT_LT(Off(Product(split.factors), Product(whole.factors)), 1e-15);
  for (int64_t j = 0; j < 16; ++j) {
    const double root = std::sqrt(whole.singular_values[j]);
    EXPECT_NEAR(ToEigen(split.factors.a).row(j).norm(), root, 1e-11 * root);
    EXPECT_NEAR(ToEigen(split.factors.b).col(j).norm(), root, 1e-11 * root);
  }
}

TEST(TruncatedSvdTest, TruncatedSvd_LargestEntryOfEachRowIsPositive) {
  for (const SvdMethod method : {SvdMethod::kQr, SvdMethod::kGram}) {
    const TestClients clients = Five();
    FactorStack kept = clients.Stack();
    const MatrixXd a = ToEigen(TruncatedSvd(kept, {16, false, method}).factors.a);
    for (int64_t j = 0; j < 16; ++j) EXPECT_EQ(a.row(j).cwiseAbs().maxCoeff(), a.row(j).maxCoeff());
  }
}

TEST(TruncatedSvdTest, TruncatedSvd_AutoTakesGramWhereItPaysAndIsAccurate) {
  const TestClients clients = Five();
  FactorStack stack = clients.Stack();
  EXPECT_TRUE(TruncatedSvd(stack, {.rank = 16}).by_gram);
  const TestClients few = TestClients::Random(130, 97, {16, 16}, 0.4, 1);
  FactorStack small = few.Stack();
  EXPECT_FALSE(TruncatedSvd(small, {.rank = 16}).by_gram);
  // The last of 16 wanted singular values is 1e-6 of the others: within QR's means only.
  TestClients graded = Five();
  for (TestClient& client : graded.clients) {
    client.a = graded.clients[0].a;
    for (int64_t d = 0; d < graded.out; ++d) client.b[d * 16 + 15] *= 1e-6f;
  }
  FactorStack hard = graded.Stack();
  const Svd svd = TruncatedSvd(hard, {.rank = 16});
  EXPECT_FALSE(svd.by_gram);
  EXPECT_NEAR(svd.singular_values[15] / DenseSvd(graded.Ideal(), 16).values[15], 1, 1e-9);
  EXPECT_LT(Off(Product(svd.factors), graded.Ideal()), 1e-14);
}

TEST(TruncatedSvdTest, TruncatedSvd_IdenticalClients) {
  TestClients clients = Five();
  for (TestClient& client : clients.clients) client.a = clients.clients[0].a, client.b = clients.clients[0].b;
  for (const SvdMethod method : {SvdMethod::kQr, SvdMethod::kGram}) {
    FactorStack stack = clients.Stack();
    const Svd svd = TruncatedSvd(stack, {16, false, method});
    EXPECT_EQ(svd.by_gram, method == SvdMethod::kGram);
    EXPECT_LT(Off(Product(svd.factors), clients.B(0) * clients.A(0)), 1e-12);
  }
}

TEST(TruncatedSvdTest, TruncatedSvd_BeyondTheRankBIsZeroAndAOrthonormal) {
  TestClients clients = Five();
  for (TestClient& client : clients.clients) {
    client.a = clients.clients[0].a;
    for (int64_t d = 0; d < clients.out; ++d) {
      for (int64_t c = 3; c < 16; ++c) client.b[d * 16 + c] = 0;
    }
  }
  for (const bool split : {false, true}) {
    FactorStack stack = clients.Stack();
    const Svd svd = TruncatedSvd(stack, {20, split});  // D has rank 3, all A together 16
    EXPECT_FALSE(svd.by_gram);
    EXPECT_LT(Off(Product(svd.factors), clients.Ideal()), 1e-13);
    EXPECT_GT(svd.singular_values[2], 0);
    EXPECT_EQ(svd.singular_values[3], 0);
    EXPECT_EQ(ToEigen(svd.factors.b).rightCols(17).norm(), 0);
    const MatrixXd a = ToEigen(svd.factors.a), rest = a.bottomRows(17);
    EXPECT_LT((rest * rest.transpose() - MatrixXd::Identity(17, 17)).norm(), 1e-13);
    EXPECT_LT((rest * a.topRows(3).transpose()).norm(), 1e-13 * a.norm());
    // Components 4 to 16 lie in the row space of A, the others beyond it.
    const Eigen::JacobiSVD<MatrixXd> rows(clients.A(0), Eigen::ComputeThinV);
    EXPECT_LT((rest.topRows(13) - rest.topRows(13) * rows.matrixV() * rows.matrixV().transpose()).norm(), 1e-12);
    EXPECT_LT((rest.bottomRows(4) * rows.matrixV()).norm(), 1e-12);
  }
}

TEST(TruncatedSvdTest, TruncatedSvd_Zero) {
  TestClients clients = Five();
  for (TestClient& client : clients.clients) std::fill(client.b.begin(), client.b.end(), 0.0f);
  for (const SvdMethod method : {SvdMethod::kQr, SvdMethod::kGram}) {
    FactorStack stack = clients.Stack();
    const Svd svd = TruncatedSvd(stack, {16, false, method});
    EXPECT_THAT(svd.singular_values, Each(0.0));
    EXPECT_THAT(svd.factors.b.values, Each(0.0));
    EXPECT_LT(Skew(svd.factors.a), 1e-13);
  }
  for (TestClient& client : clients.clients) std::fill(client.a.begin(), client.a.end(), 0.0f);
  FactorStack nothing = clients.Stack();
  EXPECT_LT(Skew(TruncatedSvd(nothing, {.rank = 16}).factors.a), 1e-13);
}

TEST(TruncatedSvdTest, TruncatedSvd_MoreThanAModuleHasRoomFor) {
  const TestClients clients = TestClients::Random(6, 4, {3, 3}, 1, 4);
  FactorStack stack = clients.Stack();
  const Svd svd = TruncatedSvd(stack, {.rank = 8});
  EXPECT_LT(Off(Product(svd.factors), clients.Ideal()), 1e-13);
  EXPECT_EQ(svd.factors.a.rows, 8);
  EXPECT_NEAR(ToEigen(svd.factors.a).row(5).norm(), 1, 1e-14);
  EXPECT_EQ(ToEigen(svd.factors.a).bottomRows(2).norm(), 0);  // 6 inputs
}

TEST(TruncatedSvdTest, TruncatedSvd_GaugeChangesNothing) {
  TestClients clients = Five();
  FactorStack stack = clients.Stack();
  const Svd before = TruncatedSvd(stack, {.rank = 16});
  const MatrixXd mean = Product(stack.Mean());
  for (float& value : clients.clients[2].a) value *= 1024;
  for (float& value : clients.clients[2].b) value /= 1024;
  FactorStack turned = clients.Stack();
  const Svd after = TruncatedSvd(turned, {.rank = 16});
  EXPECT_TRUE(after.by_gram);
  EXPECT_EQ(after.factors.a.values, before.factors.a.values);  // a power of two rounds nothing
  EXPECT_EQ(after.factors.b.values, before.factors.b.values);
  // Averages of the factors do move (FedAvg).
  EXPECT_GT(Off(Product(turned.Mean()), mean), 0.1);
}

TEST(TruncatedSvdTest, TruncatedSvd_HugeAndTinyValues) {
  for (const SvdMethod method : {SvdMethod::kQr, SvdMethod::kGram}) {
    for (const float scale : {1e30f, 1e-30f}) {
      TestClients clients = Five();
      for (TestClient& client : clients.clients) {
        for (float& value : client.a) value *= scale;
        for (float& value : client.b) value *= scale;
      }
      FactorStack stack = clients.Stack();
      const Svd svd = TruncatedSvd(stack, {16, false, method});
      EXPECT_EQ(svd.by_gram, method == SvdMethod::kGram);
      EXPECT_LT(Off(Product(svd.factors), DenseSvd(clients.Ideal(), 16).best), 1e-11);
    }
  }
}

TEST(TruncatedSvdTest, TruncatedSvd_EqualSingularValues) {
  // Orthogonal components of one length: every singular value is 1/5, ten of eighty are wanted.
  TestClients clients = Five();
  for (size_t k = 0; k < 5; ++k) {
    TestClient& client = clients.clients[k];
    client.weight = 0.2;
    std::fill(client.a.begin(), client.a.end(), 0.0f);
    std::fill(client.b.begin(), client.b.end(), 0.0f);
    for (int64_t c = 0; c < 16; ++c) {
      const int64_t j = static_cast<int64_t>(k) * 16 + c;
      client.a[c * clients.in + (j * 7) % clients.in] = 1;
      client.b[((j * 5) % clients.out) * 16 + c] = 1;
    }
  }
  FactorStack stack = clients.Stack();
  const Svd svd = TruncatedSvd(stack, {.rank = 10});
  for (const double value : svd.singular_values) EXPECT_NEAR(value, 0.2, 1e-14);
  EXPECT_LT(Skew(svd.factors.a), 1e-12);
  EXPECT_NEAR((clients.Ideal() - Product(svd.factors)).squaredNorm(), 70 * 0.04, 1e-12);
}

}  // namespace
}  // namespace weft::aggregators
