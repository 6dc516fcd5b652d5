#include "simulation/population/deal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

namespace weft::simulation {
namespace {

using ::testing::ElementsAre;

TEST(DrawGammaTest, HasMeanAndVarianceOfItsShape) {
  for (const double shape : {0.1, 0.5, 1.0, 3.0, 50.0}) {
    Philox random(7, StreamId("test"));
    constexpr int kDraws = 40'000;
    double sum = 0, square = 0;
    for (int i = 0; i < kDraws; ++i) {
      const double x = DrawGamma(shape, random);
      ASSERT_GE(x, 0);
      sum += x;
      square += x * x;
    }
    const double mean = sum / kDraws, variance = square / kDraws - mean * mean;
    EXPECT_NEAR(mean, shape, 5 * std::sqrt(shape / kDraws)) << shape;
    EXPECT_NEAR(variance, shape, 0.1 * shape + 0.02) << shape;
  }
}

TEST(DrawDirichletTest, SharesSumToOneAndSpreadByAlpha) {
  Philox random(3, StreamId("test"));
  double largest = 0;
  for (const double alpha : {1e-4, 0.1, 1.0, 1e4}) {
    double sum_of_largest = 0;
    for (int i = 0; i < 200; ++i) {
      const std::vector<double> shares = DrawDirichlet(alpha, 10, random);
      EXPECT_NEAR(std::accumulate(shares.begin(), shares.end(), 0.0), 1, 1e-9);
      sum_of_largest += *std::max_element(shares.begin(), shares.end());
    }
    if (largest > 0) {
      EXPECT_LT(sum_of_largest, largest) << alpha;
    }
    largest = sum_of_largest;
  }
  EXPECT_NEAR(largest / 200, 0.1, 0.01) << "alike in the end";
}

TEST(DrawDirichletTest, VarianceOfAShare) {
  // Var = a (A - a) / (A^2 (A + 1)) with a = alpha, A = alpha * size.
  Philox random(5, StreamId("test"));
  double square = 0;
  for (int i = 0; i < 20'000; ++i) {
    const double share = DrawDirichlet(0.5, 4, random)[0] - 0.25;
    square += share * share;
  }
  EXPECT_NEAR(square / 20'000, 0.5 * 1.5 / (4 * 3), 0.002);
}

TEST(DealTest, GivesRowsOfEachClientInOrder) {
  const std::vector<int32_t> owner = {1, 0, -1, 1, 1};
  Deal deal(owner, 3);
  EXPECT_EQ(deal.clients(), 3);
  EXPECT_THAT(deal.rows(0), ElementsAre(1));
  EXPECT_THAT(deal.rows(1), ElementsAre(0, 3, 4));
  EXPECT_TRUE(deal.rows(2).empty());
}

TEST(DealTest, Keep_DropsSmallClientsAndCutsLargeOnes) {
  const std::vector<int32_t> owner = {1, 0, 2, 1, 1, 2};
  Deal deal(owner, 3);
  EXPECT_THAT(deal.Keep(2, 2), ElementsAre(1, 2));
  EXPECT_EQ(deal.clients(), 2);
  EXPECT_THAT(deal.rows(0), ElementsAre(0, 3));
  EXPECT_THAT(deal.rows(1), ElementsAre(2, 5));
  const std::vector<int32_t> other = {1, 0};
  deal.Take(other);
  EXPECT_THAT(deal.rows(0), ElementsAre(2, 5));
}

TEST(DealTest, CostsTwelveBytesAClientAtMostBesideItsRows) {
  std::vector<int32_t> owner(100'000);
  for (size_t i = 0; i < owner.size(); ++i) owner[i] = static_cast<int32_t>(i / 2);
  Deal deal(owner, 50'000);
  deal.Keep(1, 0);
  EXPECT_LE(deal.bytes(), 50'000 * 12 + 100'000 * 4);
}

TEST(DrawSizesTest, SumToTheRowsAndAreNeverEmpty) {
  for (const double sigma : {0.0, 1.0, 4.0}) {
    const std::vector<int64_t> sizes = DrawSizes(1'003, 100, sigma, 1);
    EXPECT_EQ(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}), 1'003) << sigma;
    EXPECT_GE(*std::min_element(sizes.begin(), sizes.end()), 1) << sigma;
  }
  const std::vector<int64_t> alike = DrawSizes(1'003, 100, 0, 1);
  EXPECT_EQ(*std::min_element(alike.begin(), alike.end()), 10);
  EXPECT_EQ(*std::max_element(alike.begin(), alike.end()), 11);
  const std::vector<int64_t> skewed = DrawSizes(1'003, 100, 1, 1);
  EXPECT_GT(*std::max_element(skewed.begin(), skewed.end()), 20);
}

TEST(DealAlikeTest, EveryRowHasAnOwnerAndTheSeedDecides) {
  const std::vector<int64_t> sizes = {3, 4, 3};
  const std::vector<int32_t> owner = DealAlike(10, sizes, 1);
  for (int32_t client = 0; client < 3; ++client)
    EXPECT_EQ(std::count(owner.begin(), owner.end(), client), sizes[client]);
  EXPECT_EQ(DealAlike(10, sizes, 1), owner);
  EXPECT_NE(DealAlike(10, sizes, 2), owner);
}

// Labels a client has among its rows, on average.
double MeanLabels(const std::vector<int32_t>& labels, const std::vector<int32_t>& owner, int64_t clients) {
  std::set<std::pair<int32_t, int32_t>> seen;
  for (size_t i = 0; i < labels.size(); ++i) seen.insert({owner[i], labels[i]});
  return static_cast<double>(seen.size()) / static_cast<double>(clients);
}

TEST(DealByLabelsTest, SmallAlphaMeansFewLabelsEach) {
  std::vector<int32_t> labels(2'000);
  for (size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<int32_t>(i % 10);
  const std::vector<int64_t> sizes(50, 40);
  const auto skewed = DealByLabels(labels, 10, sizes, 0.05, 1), even = DealByLabels(labels, 10, sizes, 100, 1);
  for (int32_t client = 0; client < 50; ++client) {
    EXPECT_EQ(std::count(skewed.begin(), skewed.end(), client), 40) << "all rows are dealt";
  }
  EXPECT_LT(MeanLabels(labels, skewed, 50), 4.5);
  EXPECT_GT(MeanLabels(labels, even, 50), 9);
  EXPECT_EQ(DealByLabels(labels, 10, sizes, 0.05, 1), skewed);
}

TEST(DealByLabelsTest, TakesWhatIsLeftWhenItsLabelsAreGone) {
  const std::vector<int32_t> labels = {0, 0, 0, 0, 0, 1};
  const std::vector<int64_t> sizes = {3, 3};
  const std::vector<int32_t> owner = DealByLabels(labels, 2, sizes, 1e-3, 1);
  EXPECT_EQ(std::count(owner.begin(), owner.end(), 0), 3);
  EXPECT_EQ(std::count(owner.begin(), owner.end(), 1), 3);
}

TEST(RowDrawerTest, Draw_FollowsTheClientAlone) {
  const RowDrawer drawer({.labels = {}, .rows = 1'000, .seed = 1, .stream = 2});
  const std::vector<uint32_t> rows = drawer.Draw(5, 8);
  EXPECT_EQ(rows.size(), 8);
  EXPECT_EQ(drawer.Draw(5, 8), rows);
  EXPECT_NE(drawer.Draw(6, 8), rows);
  EXPECT_EQ(drawer.Draw(5, 4), std::vector<uint32_t>(rows.begin(), rows.begin() + 4));
  EXPECT_LT(*std::max_element(rows.begin(), rows.end()), 1'000);
}

TEST(RowDrawerTest, Draw_MixesLabelsAlikeInBothSplits) {
  std::vector<int32_t> labels(1'000);
  for (size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<int32_t>(i % 10);
  const RowDrawer train({.labels = labels, .num_labels = 10, .alpha = 0.05, .rows = 1'000, .seed = 1, .stream = 1});
  const RowDrawer test({.labels = labels, .num_labels = 10, .alpha = 0.05, .rows = 1'000, .seed = 1, .stream = 2});
  int alike = 0;
  for (int64_t client = 0; client < 50; ++client) {
    const auto usual = [&](const RowDrawer& drawer) {
      std::vector<int> counts(10, 0);
      for (const uint32_t row : drawer.Draw(client, 50)) ++counts[labels[row]];
      return std::max_element(counts.begin(), counts.end()) - counts.begin();
    };
    alike += usual(train) == usual(test) ? 1 : 0;
    EXPECT_NE(train.Draw(client, 50), test.Draw(client, 50));
  }
  EXPECT_GE(alike, 45);
}

TEST(RowDrawerTest, Draw_PassesOverLabelsThatTheSplitLacks) {
  const std::vector<int32_t> labels = {2, 2, 2};
  const RowDrawer drawer({.labels = labels, .num_labels = 3, .alpha = 0.01, .rows = 3, .seed = 1, .stream = 1});
  for (int64_t client = 0; client < 20; ++client) EXPECT_EQ(drawer.Draw(client, 5).size(), 5);
}

}  // namespace
}  // namespace weft::simulation
