#include "server/selection/selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_format.h"

namespace weft::server {
namespace {

std::vector<std::string> Clients(int count) {
  std::vector<std::string> ids;
  for (int i = 0; i < count; ++i) ids.push_back(absl::StrFormat("client-%03d", i));
  return ids;
}

SelectionSnapshot Snapshot(int clients, int64_t round = 1, int64_t attempt = 1) {
  SelectionSnapshot snapshot;
  snapshot.seed = 42;
  snapshot.round = round;
  snapshot.attempt = attempt;
  snapshot.ready = Clients(clients);
  return snapshot;
}

proto::SelectionConfig Uniform(int64_t clients, double over_select = 1) {
  proto::SelectionConfig config;
  config.set_rule("uniform");
  config.set_clients(clients);
  config.set_over_select(over_select);
  return config;
}

proto::SelectionConfig Poisson(double rate) {
  proto::SelectionConfig config;
  config.set_rule("poisson");
  config.set_rate(rate);
  return config;
}

TEST(SelectionTest, All_TakesEveryReadyClient) {
  proto::SelectionConfig config;
  config.set_rule("all");
  EXPECT_EQ(SelectCohort(config, Snapshot(5)), Clients(5));
  EXPECT_EQ(CloseAt(config, 5), 5);
}

TEST(SelectionTest, Uniform_DrawsTheAskedNumberWithoutRepeatsInOrder) {
  const std::vector<std::string> cohort = SelectCohort(Uniform(10), Snapshot(100));
  EXPECT_EQ(cohort.size(), 10u);
  EXPECT_TRUE(std::is_sorted(cohort.begin(), cohort.end()));
  EXPECT_EQ(std::set<std::string>(cohort.begin(), cohort.end()).size(), 10u);
}

TEST(SelectionTest, Uniform_OverSelectAsksMoreAndClosesAtClients) {
  EXPECT_EQ(SelectCohort(Uniform(10, 1.25), Snapshot(100)).size(), 13u);
  EXPECT_EQ(CloseAt(Uniform(10, 1.25), 13), 10);
}

TEST(SelectionTest, Uniform_FewerReadyThanWantedTakesAll) {
  EXPECT_EQ(SelectCohort(Uniform(10, 1.5), Snapshot(4)), Clients(4));
  EXPECT_EQ(CloseAt(Uniform(10, 1.5), 4), 4);
}

TEST(SelectionTest, Uniform_SameSnapshotSameCohortOtherRoundOrAttemptAnother) {
  const auto cohort = SelectCohort(Uniform(10), Snapshot(100));
  EXPECT_EQ(cohort, SelectCohort(Uniform(10), Snapshot(100)));
  EXPECT_NE(cohort, SelectCohort(Uniform(10), Snapshot(100, 2)));
  EXPECT_NE(cohort, SelectCohort(Uniform(10), Snapshot(100, 1, 2)));
}

// 2,000 rounds of 10 out of 50: each client is expected 400 times with a standard deviation of sqrt(2000 * 0.2 * 0.8)
// = 17.9.
TEST(SelectionTest, Uniform_EveryClientIsDrawnEquallyOften) {
  std::map<std::string, int> counts;
  for (int round = 1; round <= 2000; ++round) {
    for (const std::string& client : SelectCohort(Uniform(10), Snapshot(50, round))) ++counts[client];
  }
  ASSERT_EQ(counts.size(), 50u);
  for (const auto& [client, count] : counts) {
    EXPECT_GT(count, 400 - 5 * 18) << client;
    EXPECT_LT(count, 400 + 5 * 18) << client;
  }
}

TEST(SelectionTest, Poisson_SameSnapshotSameCohort) {
  EXPECT_EQ(SelectCohort(Poisson(0.3), Snapshot(100)), SelectCohort(Poisson(0.3), Snapshot(100)));
  EXPECT_NE(SelectCohort(Poisson(0.3), Snapshot(100)), SelectCohort(Poisson(0.3), Snapshot(100, 1, 2)));
}

TEST(SelectionTest, Poisson_DrawOfAClientDoesNotDependOnTheOthers) {
  const std::vector<std::string> of_hundred = SelectCohort(Poisson(0.3), Snapshot(100));
  SelectionSnapshot fewer = Snapshot(50);
  std::vector<std::string> expected;
  for (const std::string& client : of_hundred) {
    if (client < "client-050") expected.push_back(client);
  }
  EXPECT_EQ(SelectCohort(Poisson(0.3), fewer), expected);
}

// 1,000 rounds of 100 clients at rate 0.3: 30,000 expected with a standard deviation of sqrt(100000 * 0.3 * 0.7) = 145.
// The count of a pinned seed is exact; a rate of 0.29 would miss the band by far.
TEST(SelectionTest, Poisson_SelectsAtItsRate) {
  int64_t selected = 0;
  for (int round = 1; round <= 1000; ++round) {
    selected += static_cast<int64_t>(SelectCohort(Poisson(0.3), Snapshot(100, round)).size());
  }
  EXPECT_NEAR(static_cast<double>(selected), 30000, 4 * 145);
  int64_t perturbed = 0;
  for (int round = 1; round <= 1000; ++round) {
    perturbed += static_cast<int64_t>(SelectCohort(Poisson(0.29), Snapshot(100, round)).size());
  }
  EXPECT_GT(30000 - perturbed, 4 * 145);
}

TEST(SelectionTest, Poisson_TooFewSelectedDrawsAgain) {
  SelectionSnapshot snapshot = Snapshot(4);
  snapshot.min_updates = 3;
  for (int round = 1; round <= 200; ++round) {
    snapshot.round = round;
    EXPECT_GE(SelectCohort(Poisson(0.3), snapshot).size(), 3u) << round;
  }
}

TEST(SelectionTest, Poisson_WithoutAMinimumEveryDrawStands) {
  SelectionSnapshot snapshot = Snapshot(4);
  snapshot.min_updates = 0;
  int64_t empty = 0;
  for (int round = 1; round <= 1000; ++round) {
    snapshot.round = round;
    empty += SelectCohort(Poisson(0.3), snapshot).empty() ? 1 : 0;
  }
  // 0.7^4 = 0.24 of the rounds, with a standard deviation of 13.5.
  EXPECT_NEAR(static_cast<double>(empty), 240, 4 * 13.5);
  snapshot.min_updates = 1;
  EXPECT_FALSE(SelectCohort(Poisson(0.3), snapshot).empty());
}

TEST(SelectionTest, Poisson_HopelessRateGivesAnEmptyCohort) {
  EXPECT_TRUE(SelectCohort(Poisson(1e-12), Snapshot(3)).empty());
}

}  // namespace
}  // namespace weft::server
