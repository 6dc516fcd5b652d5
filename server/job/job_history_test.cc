#include "server/job/job_history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weft::server {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// One committed round per accuracy; a negative one was not evaluated.
JobHistory History(const std::vector<double>& accuracies) {
  JobHistory history;
  history.started = absl::FromUnixSeconds(1000);
  for (const double accuracy : accuracies) {
    CommittedRound round;
    round.status.set_round(static_cast<int64_t>(history.rounds.size()) + 1);
    if (accuracy >= 0) {
      round.status.set_accuracy(accuracy);
      round.evaluated = Evaluated::kCapped;
    }
    history.rounds.push_back(round);
  }
  return history;
}

TEST(JobHistoryTest, BestRound_Table) {
  struct Case {
    std::vector<double> accuracies;
    int64_t best;
  };
  const Case cases[] = {{{}, 0},         {{-1, -1}, 2},      {{0.5, 0.7, 0.6}, 2},
                        {{0.5, 0.5}, 1}, {{0.5, -1, -1}, 1}, {{0, -1}, 1}};
  for (const Case& c : cases) EXPECT_EQ(BestRound(History(c.accuracies).rounds), c.best);
}

TEST(JobHistoryTest, StopReason_Table) {
  struct Case {
    const char* rule;
    std::vector<double> accuracies;
    int64_t seconds;     // since the first round
    const char* reason;  // a part of it; empty: goes on
  };
  const Case cases[] = {
      {"rounds", {0.1, 0.2}, 0, ""},
      {"rounds", {0.1, 0.2, 0.3}, 0, "all 3 rounds"},
      {"time", {}, 59, ""},
      {"time", {}, 60, "time limit of 1m"},
      {"time", {0.1}, 61, "time limit of 1m"},
      {"target", {0.59}, 0, ""},
      {"target", {0.6}, 0, "reached the target 0.6000"},
      {"target", {0.7, -1}, 0, ""},
      {"patience", {0.5, 0.4}, 0, ""},
      {"patience", {0.5, 0.4, 0.5}, 0, "no better accuracy in 2 evaluations"},
      {"patience", {0.5, -1, 0.4}, 0, ""},
      {"patience", {0.5, 0.4, 0.6}, 0, ""},
  };
  for (const Case& c : cases) {
    proto::StopConfig stop;
    stop.set_rounds(100);
    const std::string rule = c.rule;
    if (rule == "rounds") stop.set_rounds(3);
    if (rule == "time") stop.mutable_time()->set_seconds(60);
    if (rule == "target") stop.set_target_accuracy(0.6);
    if (rule == "patience") stop.set_patience(2);
    const std::string reason = StopReason(stop, History(c.accuracies), absl::FromUnixSeconds(1000 + c.seconds));
    if (*c.reason == '\0') {
      EXPECT_THAT(reason, IsEmpty()) << c.rule << " " << c.accuracies.size();
    } else {
      EXPECT_THAT(reason, HasSubstr(c.reason));
    }
  }
}

TEST(JobHistoryTest, EvaluationDue_Table) {
  struct Case {
    int64_t every, rows, final_rows, round;
    Evaluated evaluated;
    bool last;
    Evaluated due;
  };
  const Case cases[] = {
      {1, 10, 0, 1, Evaluated::kNo, false, Evaluated::kCapped},
      {1, 10, 0, 1, Evaluated::kCapped, false, Evaluated::kNo},
      {2, 10, 0, 1, Evaluated::kNo, false, Evaluated::kNo},
      {2, 10, 0, 2, Evaluated::kNo, false, Evaluated::kCapped},
      {0, 10, 0, 2, Evaluated::kNo, false, Evaluated::kNo},
      {0, 10, 0, 2, Evaluated::kNo, true, Evaluated::kFinal},
      {1, 10, 0, 2, Evaluated::kCapped, true, Evaluated::kFinal},
      {1, 10, 10, 2, Evaluated::kCapped, true, Evaluated::kNo},
      {1, 10, 0, 2, Evaluated::kFinal, true, Evaluated::kNo},
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    const Case& c = cases[i];
    proto::EvaluationConfig config;
    config.set_every(c.every);
    config.set_rows(c.rows);
    config.set_final_rows(c.final_rows);
    CommittedRound round;
    round.status.set_round(c.round);
    round.evaluated = c.evaluated;
    EXPECT_EQ(EvaluationDue(config, round, c.last), c.due) << "case " << i;
  }
}

TEST(JobHistoryTest, TypicalRound_IsTheMedianOfTheLastFive) {
  EXPECT_EQ(TypicalRound({}), std::nullopt);
  JobHistory history = History({0, 0, 0, 0, 0, 0});
  const double seconds[] = {1000, 3, 100, 5, 4, 6};
  for (size_t i = 0; i < 6; ++i) history.rounds[i].status.set_train_seconds(seconds[i]);
  history.rounds[3].status.set_evaluation_seconds(0.5);
  EXPECT_EQ(TypicalRound(history.rounds), absl::Seconds(5.5));
}

}  // namespace
}  // namespace weft::server
