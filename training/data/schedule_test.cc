#include "training/data/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace weft {
namespace {

std::vector<int64_t> Take(BatchSchedule& schedule, int steps) {
  std::vector<int64_t> rows;
  for (int i = 0; i < steps; ++i) {
    for (const int64_t row : schedule.Next()) rows.push_back(row);
  }
  return rows;
}

TEST(BatchScheduleTest, Next_EveryPassCoversEveryRowOnceInNewOrder) {
  BatchSchedule schedule(10, 4, /*seed=*/1);
  std::vector<int64_t> all(10);
  std::iota(all.begin(), all.end(), 0);
  const std::vector<int64_t> first = Take(schedule, 3), second = Take(schedule, 3);
  EXPECT_THAT(first, ::testing::UnorderedElementsAreArray(all));
  EXPECT_THAT(second, ::testing::UnorderedElementsAreArray(all));
  EXPECT_NE(first, all);
  EXPECT_NE(first, second);
}

TEST(BatchScheduleTest, Next_WithoutShuffleIsTheOrderOfTheData) {
  BatchSchedule schedule(5, 2, /*seed=*/1, /*shuffle=*/false);
  EXPECT_THAT(Take(schedule, 6), ::testing::ElementsAre(0, 1, 2, 3, 4, 0, 1, 2, 3, 4));
}

TEST(BatchScheduleTest, Next_LastBatchOfAPassIsSmaller) {
  BatchSchedule schedule(10, 4, 1);
  EXPECT_EQ(schedule.Next().size(), 4u);
  EXPECT_EQ(schedule.Next().size(), 4u);
  EXPECT_EQ(schedule.Next().size(), 2u);
  EXPECT_EQ(schedule.Next().size(), 4u);
}

TEST(BatchScheduleTest, Next_DependsOnTheSeedAlone) {
  BatchSchedule a(100, 7, 5), b(100, 7, 5), other(100, 7, 6);
  const std::vector<int64_t> rows = Take(a, 40);
  EXPECT_EQ(rows, Take(b, 40));
  EXPECT_NE(rows, Take(other, 40));
}

TEST(StepsForTest, StepsOrElseEpochs) {
  proto::TrainingConfig training;
  training.set_batch_size(4);
  training.set_epochs(3);
  EXPECT_EQ(StepsFor(training, 10), 9);
  EXPECT_EQ(StepsFor(training, 1), 3);
  training.set_steps(5);
  EXPECT_EQ(StepsFor(training, 10), 5);
}

TEST(RowsForTest, IsWhatTheScheduleGoesThrough) {
  for (const int64_t rows : {1, 3, 4, 10, 33}) {
    for (const int64_t steps : {0, 1, 5, 9}) {
      for (const int64_t accumulation : {1, 2}) {
        proto::TrainingConfig training;
        training.set_batch_size(4);
        training.set_epochs(3);
        training.set_steps(steps);
        training.set_accumulation(accumulation);
        BatchSchedule schedule(rows, 4, 1);
        const auto batches = static_cast<int>(StepsFor(training, rows) * accumulation);
        EXPECT_EQ(RowsFor(training, rows), Take(schedule, batches).size()) << rows << " " << steps;
      }
    }
  }
}

TEST(EvenlySpacedRowTest, SpreadsOverTheSplit) {
  EXPECT_EQ(EvenlySpacedRow(0, 3, 10), 0);
  EXPECT_EQ(EvenlySpacedRow(1, 3, 10), 3);
  EXPECT_EQ(EvenlySpacedRow(2, 3, 10), 6);
  for (int64_t i = 0; i < 10; ++i) EXPECT_EQ(EvenlySpacedRow(i, 10, 10), i);
}

}  // namespace
}  // namespace weft
