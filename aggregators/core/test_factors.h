#ifndef WEFT_AGGREGATORS_CORE_TEST_FACTORS_H_
#define WEFT_AGGREGATORS_CORE_TEST_FACTORS_H_

// Made-up factors that own their values, and their dense products. Testonly.

#include <eigen3/Eigen/Core>

#include <cstdint>
#include <vector>

#include "aggregators/core/factored.h"
#include "common/random.h"

namespace weft::aggregators {

using Eigen::MatrixXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct TestClient {
  int64_t rank;
  double weight;
  std::vector<float> a, b;
};

struct TestClients {
  int64_t in, out;
  std::vector<TestClient> clients;

  // Unequal weights that sum to 1; the clients share a part of A and B and differ in `spread`.
  static TestClients Random(int64_t in, int64_t out, const std::vector<int64_t>& ranks, double spread, uint64_t seed) {
    TestClients made = {in, out, {}};
    double total = 0;
    for (size_t k = 0; k < ranks.size(); ++k) total += static_cast<double>(k + 1);
    for (size_t k = 0; k < ranks.size(); ++k) {
      TestClient client = {ranks[k], static_cast<double>(k + 1) / total, {}, {}};
      Philox own(seed, k + 2);
      Philox common_a(seed, 0);
      for (int64_t i = 0; i < ranks[k] * in; ++i) {
        client.a.push_back(static_cast<float>(common_a.NextNormal() + spread * own.NextNormal()));
      }
      for (int64_t d = 0; d < out; ++d) {
        Philox common_b(seed + 1, d);
        for (int64_t c = 0; c < ranks[k]; ++c) {
          client.b.push_back(static_cast<float>(common_b.NextNormal() + spread * own.NextNormal()));
        }
      }
      made.clients.push_back(client);
    }
    return made;
  }

  FactorStack Stack() const {
    std::vector<ClientFactors> factors;
    for (const TestClient& client : clients) factors.push_back({client.a, client.b, client.rank, client.weight});
    return *FactorStack::Create(in, out, factors);
  }

  MatrixXd A(size_t k) const {
    const TestClient& client = clients[k];
    return Eigen::Map<const Eigen::Matrix<float, -1, -1, Eigen::RowMajor>>(client.a.data(), client.rank, in)
        .cast<double>();
  }
  MatrixXd B(size_t k) const {
    const TestClient& client = clients[k];
    return Eigen::Map<const Eigen::Matrix<float, -1, -1, Eigen::RowMajor>>(client.b.data(), out, client.rank)
        .cast<double>();
  }
  // sum_k w_k B_k A_k.
  MatrixXd Ideal() const {
    MatrixXd ideal = MatrixXd::Zero(out, in);
    for (size_t k = 0; k < clients.size(); ++k) ideal += clients[k].weight * B(k) * A(k);
    return ideal;
  }
};

inline MatrixXd ToEigen(const Matrix& m) { return Eigen::Map<const RowMajor>(m.values.data(), m.rows, m.columns); }
inline MatrixXd Product(const Factors& factors) { return ToEigen(factors.b) * ToEigen(factors.a); }

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_TEST_FACTORS_H_
