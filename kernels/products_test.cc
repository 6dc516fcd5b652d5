#include "kernels/products.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cmath>
#include <vector>

#include "common/random.h"

namespace weft::kernels {
namespace {

using ::testing::Each;

// Vectors as the rows of A of clients of rank 3, or as the columns of their B [length, 3].
struct Stack {
  std::vector<float> values;
  std::vector<const float*> data;
  std::vector<int64_t> strides;
  int64_t length;

  Stack(int64_t count, int64_t length, bool columns) : values(count * length), length(length) {
    Philox random(count * 1000 + length, columns);
    for (float& value : values) value = static_cast<float>(random.NextNormal());
    for (int64_t j = 0; j < count; ++j) {
      const int64_t first = j / 3 * 3, rank = std::min<int64_t>(3, count - first);
      data.push_back(values.data() + (columns ? first * length + j - first : j * length));
      strides.push_back(columns ? rank : 1);
    }
  }
  VectorStack View() const { return {data.data(), strides.data(), static_cast<int64_t>(data.size()), length}; }
  double At(int64_t j, int64_t d) const { return data[j][d * strides[j]]; }
};

std::vector<double> Random(int64_t n) {
  Philox random(n, 77);
  std::vector<double> values(n);
  for (double& value : values) value = random.NextNormal();
  return values;
}

// Shapes around the edges of tiles (16) and blocks (128).
const std::pair<int64_t, int64_t> kShapes[] = {{1, 1}, {3, 5}, {16, 16}, {17, 128}, {31, 129}, {48, 300}, {50, 1000}};

std::vector<std::vector<double>> All(int64_t count, int64_t length, bool columns, int64_t n) {
  const Stack stack(count, length, columns);
  const std::vector<double> w = Random(count * n);
  std::vector<std::vector<double>> all = {std::vector<double>(count * count), std::vector<double>(n * length),
                                          std::vector<double>(n * length), std::vector<double>(n * n),
                                          std::vector<double>(n * n)};
  Gram(stack.View(), all[0].data());
  CombineToRows(stack.View(), w.data(), n, all[1].data());
  CombineToColumns(stack.View(), w.data(), n, all[2].data());
  TransposedProduct(w.data(), w.data(), count, n, n, all[3].data());
  SymmetricTransposedProduct(w.data(), w.data(), count, n, all[4].data());
  return all;
}

// A sum of terms, and the sum of their magnitudes.
struct Sum {
  double value = 0, size = 0;
  void operator+=(double term) {
    value += term;
    size += std::abs(term);
  }
};

// Measured: up to 4e-15 of the terms' magnitudes, for plain sums of a thousand.
constexpr double kTolerance = 2e-14;
#define ASSERT_SUM(found, sum) ASSERT_NEAR(found, sum.value, kTolerance* sum.size)

TEST(ProductsTest, Products_AreTheSums) {
  for (const auto& [count, length] : kShapes) {
    for (const bool columns : {false, true}) {
      for (const int64_t n : {1, 16, 19}) {
        const Stack stack(count, length, columns);
        const std::vector<double> w = Random(count * n);
        const auto all = All(count, length, columns, n);
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t j = 0; j < count; ++j) {
            Sum sum;
            for (int64_t d = 0; d < length; ++d) sum += stack.At(i, d) * stack.At(j, d);
            ASSERT_SUM(all[0][i * count + j], sum);
          }
        }
        for (int64_t c = 0; c < n; ++c) {
          for (int64_t d = 0; d < length; ++d) {
            Sum sum;
            for (int64_t j = 0; j < count; ++j) sum += w[j * n + c] * stack.At(j, d);
            ASSERT_SUM(all[1][c * length + d], sum);
            ASSERT_SUM(all[2][d * n + c], sum);
          }
          for (int64_t e = 0; e < n; ++e) {
            Sum sum;
            for (int64_t j = 0; j < count; ++j) sum += w[j * n + c] * w[j * n + e];
            ASSERT_SUM(all[3][c * n + e], sum);
            ASSERT_SUM(all[4][c * n + e], sum);
            ASSERT_EQ(all[4][c * n + e], all[4][e * n + c]);
          }
        }
      }
    }
  }
}

TEST(ProductsTest, Products_AnotherValueGivesAnotherSum) {
  Stack stack(17, 129, false);
  std::vector<double> before(17 * 17), after(17 * 17);
  Gram(stack.View(), before.data());
  stack.values.back() *= 1 + 1e-6f;
  Gram(stack.View(), after.data());
  Sum sum;
  for (int64_t d = 0; d < 129; ++d) sum += stack.At(16, d) * stack.At(16, d);
  EXPECT_NEAR(after.back(), sum.value, kTolerance * sum.size);
  EXPECT_GT(std::abs(before.back() - sum.value), kTolerance * sum.size);
}

TEST(ProductsTest, Gram_SumsExactProductsInOrder) {
  // Within a block the sum runs in order and each product is exact: so this is what plain code computes.
  const Stack stack(5, 128, false);
  std::vector<double> gram(25);
  Gram(stack.View(), gram.data());
  double sum = 0;
  for (int64_t d = 0; d < 128; ++d) sum += stack.At(1, d) * stack.At(4, d);
  EXPECT_EQ(gram[1 * 5 + 4], sum);
  double backwards = 0;
  for (int64_t d = 127; d >= 0; --d) backwards += stack.At(1, d) * stack.At(4, d);
  EXPECT_NE(backwards, sum);
}

TEST(ProductsTest, Products_SameBitsOnEveryTarget) {
  for (const auto& [count, length] : kShapes) {
    for (const bool columns : {false, true}) {
      std::vector<std::vector<std::vector<double>>> results;
      for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
        hwy::SetSupportedTargetsForTest(target);
        results.push_back(All(count, length, columns, 19));
      }
      hwy::SetSupportedTargetsForTest(0);
      ASSERT_GE(results.size(), 1u);
      EXPECT_THAT(results, Each(results[0]));
    }
  }
}

}  // namespace
}  // namespace weft::kernels
