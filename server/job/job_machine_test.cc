#include "server/job/job_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/simulated_clock.h"

namespace weft::server {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

proto::JobConfig Config(int64_t rounds) {
  proto::JobConfig config;
  config.set_seed(42);
  config.mutable_selection()->set_rule("all");
  config.mutable_selection()->set_over_select(1);
  config.mutable_selection()->set_min_ready(2);
  config.mutable_round()->set_min_updates(1);
  config.mutable_round()->mutable_progress_timeout()->set_seconds(60);
  config.mutable_round()->set_max_attempts(3);
  config.mutable_evaluation()->set_every(1);
  config.mutable_evaluation()->set_rows(10);
  config.mutable_evaluation()->set_final_rows(0);
  config.mutable_stop()->set_rounds(rounds);
  return config;
}

// Drives a job and notes what it wants as words: "open 1.1 a b", "train a 1", "evaluate a 1 rows 10", "cancel a 1",
// "drop 1", "commit 1", "save 1", "end FINISHED". A commit is answered at once unless hold_commits_ is set.
class JobMachineTest : public testing::Test {
 protected:
  using Words = std::vector<std::string>;

  void StartNew(const proto::JobConfig& config, JobHistory history = {}) {
    JobMachine::Options options;
    options.config = config;
    options.rejoin_grace = absl::Seconds(30);
    options.history = std::move(history);
    options.privacy_rounds = privacy_rounds_;
    job_ = std::make_unique<JobMachine>(options);
    Take(job_->Start(clock_.Now()));
  }

  Words Take(const JobActions& actions) {
    Words words;
    for (const JobAction& action : actions) words.push_back(Word(action));
    const bool commit = !words.empty() && words.back().starts_with("commit") && !hold_commits_;
    if (commit) {
      const Words more = Take(job_->OnCommitted(job_->Summary(clock_.Now()), clock_.Now()));
      words.insert(words.end(), more.begin(), more.end());
    }
    return words;
  }

  std::string Word(const JobAction& action) {
    if (const auto* open = std::get_if<OpenRound>(&action)) {
      std::string word = absl::StrCat("open ", open->round, ".", open->attempt);
      for (const std::string& client : open->cohort) absl::StrAppend(&word, " ", client);
      return word;
    }
    if (const auto* a = std::get_if<SendTraining>(&action)) return absl::StrCat("train ", a->client, " ", a->round);
    if (const auto* a = std::get_if<SendEvaluation>(&action)) {
      return absl::StrCat("evaluate ", a->client, " ", a->round, " rows ", a->rows);
    }
    if (const auto* a = std::get_if<CancelClient>(&action)) return absl::StrCat("cancel ", a->client, " ", a->round);
    if (const auto* a = std::get_if<DropRound>(&action)) return absl::StrCat("drop ", a->round);
    if (const auto* a = std::get_if<CommitRound>(&action)) return absl::StrCat("commit ", a->round);
    if (const auto* a = std::get_if<SaveRound>(&action)) return absl::StrCat("save ", a->round);
    return absl::StrCat("end ", proto::JobState_Name(std::get<EndJob>(action).state));
  }

  Words Ready(const std::string& client) { return Take(job_->OnReady(client, {100, 20}, clock_.Now())); }
  Words Update(const std::string& client, int64_t round, uint64_t examples = 10, double loss = 1) {
    proto::Update update;
    update.set_client_id(client);
    update.set_round(round);
    update.set_examples(examples);
    update.mutable_metrics()->set_loss(loss);
    auto actions = job_->OnUpdate(update, clock_.Now());
    if (!actions.ok()) return {absl::StatusCodeToString(actions.status().code())};
    return Take(*actions);
  }
  Words Evaluation(const std::string& client, int64_t round, uint64_t correct, double loss_sum = 1) {
    proto::Evaluation evaluation;
    evaluation.set_client_id(client);
    evaluation.set_round(round);
    evaluation.set_examples(10);
    evaluation.set_correct(correct);
    evaluation.set_loss_sum(loss_sum);
    return Take(job_->OnEvaluation(evaluation, clock_.Now()));
  }
  // One whole round of a and b, each with this many of ten right.
  Words WholeRound(int64_t round, uint64_t correct) {
    Update("a", round);
    Update("b", round);
    Evaluation("a", round, correct);
    return Evaluation("b", round, correct);
  }
  Words After(absl::Duration time) {
    clock_.Advance(time);
    return Take(job_->OnTick(clock_.Now()));
  }
  proto::JobStatus Status() {
    proto::JobStatus status;
    job_->FillStatus(clock_.Now(), &status);
    return status;
  }

  SimulatedClock clock_;
  std::unique_ptr<JobMachine> job_;
  bool hold_commits_ = false;
  std::optional<int64_t> privacy_rounds_;
};

TEST_F(JobMachineTest, Start_WaitsForMinReady) {
  StartNew(Config(2));
  EXPECT_THAT(Status().message(), HasSubstr("0 of 2 ready"));
  EXPECT_THAT(Ready("a"), IsEmpty());
  EXPECT_EQ(Status().state(), proto::WAITING);
  EXPECT_THAT(Status().message(), HasSubstr("1 of 2 ready"));
  EXPECT_THAT(Ready("b"), ElementsAre("open 1.1 a b", "train a 1", "train b 1"));
  EXPECT_EQ(Status().state(), proto::RUNNING);
  EXPECT_EQ(Status().phase(), "training");
}

TEST_F(JobMachineTest, Start_WaitsForMinUpdatesToo) {
  proto::JobConfig config = Config(2);
  config.mutable_round()->set_min_updates(3);
  StartNew(config);
  Ready("a");
  EXPECT_THAT(Ready("b"), IsEmpty());
  EXPECT_THAT(Status().message(), HasSubstr("2 of 3 ready"));
}

TEST_F(JobMachineTest, OnReady_ClientWithoutTrainingRowsEvaluatesOnly) {
  StartNew(Config(1));
  Take(job_->OnReady("tester", {0, 50}, clock_.Now()));
  Ready("a");
  EXPECT_THAT(Ready("b"), ElementsAre("open 1.1 a b", "train a 1", "train b 1"));
  Update("a", 1);
  EXPECT_THAT(Update("b", 1), Contains("evaluate tester 1 rows 0"));
}

TEST_F(JobMachineTest, Cycle_TwoRoundsWithEvaluationToTheEnd) {
  StartNew(Config(2));
  Ready("a");
  Ready("b");
  EXPECT_THAT(Update("a", 1), IsEmpty());
  clock_.Advance(absl::Seconds(5));
  EXPECT_THAT(Update("b", 1), ElementsAre("commit 1", "evaluate a 1 rows 10", "evaluate b 1 rows 10"));
  EXPECT_THAT(Evaluation("a", 1, 3), IsEmpty());
  EXPECT_THAT(Evaluation("b", 1, 6), ElementsAre("save 1", "open 2.1 a b", "train a 2", "train b 2"));
  Update("a", 2);
  EXPECT_THAT(Update("b", 2), ElementsAre("commit 2", "evaluate a 2 rows 0", "evaluate b 2 rows 0"));
  Evaluation("a", 2, 5);
  EXPECT_THAT(Evaluation("b", 2, 5), ElementsAre("save 2", "end FINISHED"));
  const proto::JobStatus status = Status();
  EXPECT_EQ(status.state(), proto::FINISHED);
  EXPECT_EQ(status.message(), "all 2 rounds are done");
  ASSERT_EQ(status.rounds_size(), 2);
  EXPECT_DOUBLE_EQ(status.rounds(0).accuracy(), 9.0 / 20);
  EXPECT_EQ(status.rounds(0).train_seconds(), 5);
  EXPECT_EQ(status.best_round(), 2);
  EXPECT_EQ(status.seconds_left(), 0);
}

TEST_F(JobMachineTest, Summary_WeighsTheLossByExamples) {
  hold_commits_ = true;
  StartNew(Config(1));
  Ready("a");
  Ready("b");
  Update("b", 1, 30, 2.0);
  Update("a", 1, 10, 1.0);
  job_->AddBytes(100, 200);
  const proto::RoundStatus summary = job_->Summary(clock_.Now());
  EXPECT_EQ(summary.examples(), 40u);
  EXPECT_DOUBLE_EQ(summary.train_loss(), 1.75);
  EXPECT_EQ(summary.updates(), 2);
  EXPECT_EQ(summary.bytes_up(), 100u);
  EXPECT_EQ(summary.bytes_down(), 200u);
  EXPECT_EQ(Status().phase(), "aggregating");
}

TEST_F(JobMachineTest, Evaluation_SumsDoNotDependOnArrival) {
  const std::map<std::string, double> losses = {{"a", 0.1}, {"b", 1e16}, {"c", -1e16 + 2}};
  std::vector<double> sums;
  for (const Words& order : {Words{"a", "b", "c"}, Words{"c", "b", "a"}}) {
    StartNew(Config(2));
    for (const char* client : {"a", "b", "c"}) Ready(client);
    for (const char* client : {"a", "b"}) Update(client, 1);
    for (const std::string& client : order) Evaluation(client, 1, 5, losses.at(client));
    ASSERT_EQ(Status().rounds(0).evaluated_examples(), 30u);
    sums.push_back(Status().rounds(0).loss());
  }
  EXPECT_EQ(sums[0], sums[1]);
  EXPECT_NE((losses.at("c") + losses.at("b") + losses.at("a")) / 30, sums[0])
      << "these losses do not tell orders apart";
}

TEST_F(JobMachineTest, Evaluation_OfTokensGivesPerplexity) {
  proto::JobConfig config = Config(1);
  config.mutable_task()->set_type("causal_lm");
  StartNew(config);
  Ready("a");
  Ready("b");
  Update("a", 1);
  Update("b", 1);
  for (const auto& [client, tokens] : std::map<std::string, uint64_t>{{"a", 30}, {"b", 10}}) {
    proto::Evaluation evaluation;
    evaluation.set_client_id(client);
    evaluation.set_round(1);
    evaluation.set_examples(2);
    evaluation.set_tokens(tokens);
    evaluation.set_correct(5);
    evaluation.set_loss_sum(20);
    Take(job_->OnEvaluation(evaluation, clock_.Now()));
  }
  const proto::RoundStatus round = Status().rounds(0);
  EXPECT_EQ(round.accuracy(), 0.25);
  EXPECT_EQ(round.loss(), 1);
  EXPECT_DOUBLE_EQ(round.perplexity(), 2.718281828459045);
  EXPECT_EQ(round.evaluated_tokens(), 40u);
}

TEST_F(JobMachineTest, Evaluation_OfAnotherRoundOrTwiceChangesNothing) {
  StartNew(Config(2));
  Ready("a");
  Ready("b");
  EXPECT_THAT(Evaluation("a", 1, 5), IsEmpty());
  Update("a", 1);
  Update("b", 1);
  EXPECT_THAT(Evaluation("a", 7, 5), IsEmpty());
  EXPECT_THAT(Evaluation("a", 1, 5), IsEmpty());
  EXPECT_THAT(Evaluation("a", 1, 9), IsEmpty());
  Evaluation("b", 1, 5);
  EXPECT_EQ(Status().rounds(0).accuracy(), 0.5);
}

TEST_F(JobMachineTest, Evaluation_StalledClientIsLeftOut) {
  StartNew(Config(2));
  Ready("a");
  Ready("b");
  Update("a", 1);
  Update("b", 1);
  Evaluation("a", 1, 7);
  EXPECT_THAT(After(absl::Seconds(60)), ElementsAre("cancel b 1", "save 1", "open 2.1 a b", "train a 2", "train b 2"));
  EXPECT_EQ(Status().rounds(0).accuracy(), 0.7);
  EXPECT_EQ(Status().rounds(0).evaluated_examples(), 10u);
}

TEST_F(JobMachineTest, OnProgress_OfTheRoundUnderWayKeepsAClientAlive) {
  StartNew(Config(2));
  Ready("a");
  Ready("b");
  Update("a", 1);
  for (int64_t step = 1; step < 5; ++step) {
    EXPECT_THAT(After(absl::Seconds(59)), IsEmpty());
    Take(job_->OnProgress("b", {1, "training", step}, clock_.Now()));
  }
  EXPECT_THAT(After(absl::Seconds(59)), IsEmpty());
  Take(job_->OnProgress("b", {7, "training", 100}, clock_.Now()));
  EXPECT_THAT(After(absl::Seconds(1)), ElementsAre("cancel b 1", "commit 1", "evaluate a 1 rows 10"));
}

TEST_F(JobMachineTest, Evaluation_NobodyWithTestRowsIsSkipped) {
  StartNew(Config(1));
  Take(job_->OnReady("a", {10, 0}, clock_.Now()));
  Take(job_->OnReady("b", {10, 0}, clock_.Now()));
  Update("a", 1);
  EXPECT_THAT(Update("b", 1), ElementsAre("commit 1", "save 1", "end FINISHED"));
  EXPECT_FALSE(Status().rounds(0).has_accuracy());
  EXPECT_EQ(Status().best_round(), 1);
}

TEST_F(JobMachineTest, Evaluation_EveryZeroOnlyAtTheEnd) {
  proto::JobConfig config = Config(2);
  config.mutable_evaluation()->set_every(0);
  StartNew(config);
  Ready("a");
  Ready("b");
  Update("a", 1);
  EXPECT_THAT(Update("b", 1), ElementsAre("commit 1", "open 2.1 a b", "train a 2", "train b 2"));
  Update("a", 2);
  EXPECT_THAT(Update("b", 2), ElementsAre("commit 2", "evaluate a 2 rows 0", "evaluate b 2 rows 0"));
}

TEST_F(JobMachineTest, Stop_TargetReachedEvaluatesAllRowsThenEnds) {
  proto::JobConfig config = Config(10);
  config.mutable_stop()->set_target_accuracy(0.5);
  StartNew(config);
  Ready("a");
  Ready("b");
  EXPECT_THAT(WholeRound(1, 4), Contains("open 2.1 a b"));
  EXPECT_THAT(WholeRound(2, 6), ElementsAre("save 2", "evaluate a 2 rows 0", "evaluate b 2 rows 0"));
  // Fewer right on all rows: the rule has held, the job still ends, and the number shown is the final one.
  Evaluation("a", 2, 4);
  EXPECT_THAT(Evaluation("b", 2, 4), ElementsAre("save 2", "end FINISHED"));
  EXPECT_THAT(Status().message(), HasSubstr("reached the target"));
  EXPECT_EQ(Status().best_accuracy(), 0.4);
}

TEST_F(JobMachineTest, Stop_PatienceEndsWithTheBestRoundKept) {
  proto::JobConfig config = Config(10);
  config.mutable_stop()->set_patience(2);
  config.mutable_evaluation()->set_final_rows(10);
  StartNew(config);
  Ready("a");
  Ready("b");
  WholeRound(1, 6);
  WholeRound(2, 5);
  EXPECT_THAT(WholeRound(3, 6), ElementsAre("save 3", "end FINISHED"));
  EXPECT_EQ(Status().best_round(), 1);
}

TEST_F(JobMachineTest, Stop_TimeFinishesTheRoundUnderWay) {
  proto::JobConfig config = Config(10);
  config.mutable_stop()->mutable_time()->set_seconds(50);
  StartNew(config);
  Ready("a");
  Ready("b");
  EXPECT_THAT(After(absl::Seconds(55)), IsEmpty());
  Update("a", 1);
  EXPECT_THAT(Update("b", 1), ElementsAre("commit 1", "evaluate a 1 rows 0", "evaluate b 1 rows 0"));
  Evaluation("a", 1, 5);
  EXPECT_THAT(Evaluation("b", 1, 5), ElementsAre("save 1", "end FINISHED"));
  EXPECT_THAT(Status().message(), HasSubstr("time limit"));
}

TEST_F(JobMachineTest, Stop_PrivacyBudgetSpentEndsBeforeTheRoundThatWouldPassIt) {
  privacy_rounds_ = 2;
  StartNew(Config(10));
  Ready("a");
  Ready("b");
  EXPECT_EQ(Status().rounds_total(), 2);
  EXPECT_THAT(WholeRound(1, 5), Contains("open 2.1 a b"));
  Update("a", 2);
  EXPECT_THAT(Update("b", 2), Contains("evaluate a 2 rows 0"));
  Evaluation("a", 2, 5);
  EXPECT_THAT(Evaluation("b", 2, 5), ElementsAre("save 2", "end FINISHED"));
  EXPECT_EQ(Status().message(), "privacy budget spent after 2 rounds");
  EXPECT_EQ(Status().seconds_left(), 0);
  // After a restart it comes to the same end.
  StartNew(Config(10), job_->history());
  EXPECT_EQ(Status().state(), proto::FINISHED);
  EXPECT_EQ(Status().message(), "privacy budget spent after 2 rounds");
}

TEST_F(JobMachineTest, Stop_BudgetForMoreRoundsThanTheJobHasChangesNothing) {
  privacy_rounds_ = 20;
  StartNew(Config(1));
  Ready("a");
  Ready("b");
  EXPECT_EQ(Status().rounds_total(), 1);
  WholeRound(1, 5);
  EXPECT_EQ(Status().message(), "all 1 rounds are done");
}

TEST_F(JobMachineTest, End_ByAUserCancelsWhoWorks) {
  StartNew(Config(2));
  Ready("a");
  Ready("b");
  Update("a", 1);
  EXPECT_THAT(Take(job_->End(proto::STOPPED, "stopped by a user", clock_.Now())),
              ElementsAre("cancel b 1", "end STOPPED"));
  EXPECT_THAT(Update("b", 1), ElementsAre("ABORTED"));
  EXPECT_THAT(Ready("c"), IsEmpty());
  EXPECT_THAT(After(absl::Hours(1)), IsEmpty());
}

TEST_F(JobMachineTest, Abandon_TriesAgainAfterAPauseWithOtherClientsThenFails) {
  StartNew(Config(2));
  Ready("a");
  Ready("b");
  Take(job_->OnFailure("a", 1, "no memory", clock_.Now()));
  EXPECT_THAT(Take(job_->OnFailure("b", 1, "no memory", clock_.Now())), ElementsAre("drop 1"));
  EXPECT_THAT(Ready("c"), IsEmpty());
  EXPECT_THAT(Status().message(), HasSubstr("b failed: no memory"));
  // Of the ready ones only c did not fail in this round, but min_ready wants two: everybody is asked.
  EXPECT_THAT(After(absl::Seconds(1)), ElementsAre("open 1.2 a b c", "train a 1", "train b 1", "train c 1"));
  Ready("d");
  for (const char* client : {"a", "b", "c"}) Take(job_->OnFailure(client, 1, "no memory", clock_.Now()));
  EXPECT_THAT(After(absl::Seconds(1)), IsEmpty());
  EXPECT_THAT(After(absl::Seconds(1)), Contains("open 1.3 a b c d"));
  for (const char* client : {"a", "b", "c"}) Take(job_->OnFailure(client, 1, "no memory", clock_.Now()));
  EXPECT_THAT(Take(job_->OnFailure("d", 1, "no memory", clock_.Now())), ElementsAre("drop 1", "end FAILED"));
  EXPECT_THAT(Status().message(), HasSubstr("abandoned 3 times in a row"));
}

TEST_F(JobMachineTest, Abandon_FailedClientsAreNotAskedAgainWhileOthersSuffice) {
  proto::JobConfig config = Config(2);
  config.mutable_selection()->set_min_ready(1);
  StartNew(config);
  Ready("a");
  Take(job_->OnFailure("a", 1, "bad data", clock_.Now()));
  Ready("b");
  EXPECT_THAT(After(absl::Seconds(1)), ElementsAre("open 1.2 b", "train b 1"));
  EXPECT_THAT(Update("b", 1), Contains("commit 1"));
  EXPECT_EQ(Status().rounds(0).abandoned(), 1);
}

TEST_F(JobMachineTest, OnReady_LateClientWaitsForTheNextRound) {
  proto::JobConfig config = Config(2);
  config.mutable_evaluation()->set_every(0);
  StartNew(config);
  Ready("a");
  Ready("b");
  EXPECT_THAT(Ready("late"), IsEmpty());
  EXPECT_THAT(Update("late", 1), ElementsAre("FAILED_PRECONDITION"));
  Update("a", 1);
  EXPECT_THAT(Update("b", 1), Contains("open 2.1 a b late"));
}

TEST_F(JobMachineTest, OnReady_RejoiningClientGetsItsPlanAgain) {
  StartNew(Config(2));
  Ready("a");
  Ready("b");
  Take(job_->OnLost("b", clock_.Now()));
  EXPECT_THAT(Ready("b"), ElementsAre("train b 1"));
}

TEST_F(JobMachineTest, OnGone_IsNotWaitedForNorAskedAgain) {
  proto::JobConfig config = Config(2);
  config.mutable_selection()->set_min_ready(1);
  StartNew(config);
  Ready("a");
  Update("a", 1);
  Evaluation("a", 1, 1);
  Ready("b");
  EXPECT_THAT(Take(job_->OnGone("a", clock_.Now())), ElementsAre("drop 2"));
  EXPECT_THAT(After(absl::Seconds(1)), ElementsAre("open 2.2 b", "train b 2"));
}

TEST_F(JobMachineTest, CheckUpdate_PastFutureAndUnderWay) {
  StartNew(Config(3));
  EXPECT_EQ(job_->CheckUpdate("a", 1).code(), absl::StatusCode::kAborted);
  Ready("a");
  Ready("b");
  EXPECT_TRUE(job_->CheckUpdate("a", 1).ok());
  EXPECT_EQ(job_->CheckUpdate("a", 0).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(job_->CheckUpdate("a", 2).code(), absl::StatusCode::kFailedPrecondition);
  Update("a", 1);
  EXPECT_EQ(job_->CheckUpdate("a", 1).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Update("a", 1), ElementsAre("ALREADY_EXISTS"));
  Update("b", 1);
  EXPECT_THAT(Update("b", 1), ElementsAre("ABORTED"));
}

TEST_F(JobMachineTest, Poisson_HopelessRateFailsTheJobInTheEnd) {
  proto::JobConfig config = Config(2);
  config.mutable_selection()->set_rule("poisson");
  config.mutable_selection()->set_rate(1e-12);
  StartNew(config);
  Ready("a");
  EXPECT_THAT(Ready("b"), ElementsAre("drop 1"));
  EXPECT_THAT(After(absl::Seconds(1)), ElementsAre("drop 1"));
  EXPECT_THAT(After(absl::Seconds(2)), ElementsAre("drop 1", "end FAILED"));
  EXPECT_THAT(Status().message(), HasSubstr("raise selection.rate"));
}

TEST_F(JobMachineTest, Poisson_WithoutAMinimumAnEmptyCohortIsARound) {
  proto::JobConfig config = Config(2);
  config.mutable_selection()->set_rule("poisson");
  config.mutable_selection()->set_rate(1e-12);
  config.mutable_round()->set_min_updates(0);
  StartNew(config);
  Ready("a");
  EXPECT_THAT(Ready("b"), ElementsAre("open 1.1", "commit 1", "evaluate a 1 rows 10", "evaluate b 1 rows 10"));
  EXPECT_EQ(Status().rounds(0).selected(), 0);
  EXPECT_EQ(Status().rounds(0).train_loss(), 0);
  // As it was journaled before the commit.
  JobHistory history;
  history.started = clock_.Now();
  history.open = OpenAttempt{{}, {}, clock_.Now()};
  hold_commits_ = true;
  JobMachine::Options options;
  options.config = config;
  options.history = history;
  job_ = std::make_unique<JobMachine>(options);
  EXPECT_THAT(Take(job_->Start(clock_.Now())), ElementsAre("commit 1"));
}

TEST_F(JobMachineTest, Poisson_WithoutAMinimumClosesWithoutThoseWhoLeft) {
  proto::JobConfig config = Config(2);
  config.mutable_selection()->set_rule("poisson");
  config.mutable_selection()->set_rate(1);
  config.mutable_round()->set_min_updates(0);
  StartNew(config);
  Ready("a");
  EXPECT_THAT(Ready("b"), ElementsAre("open 1.1 a b", "train a 1", "train b 1"));
  Take(job_->OnGone("a", clock_.Now()));
  EXPECT_THAT(Take(job_->OnGone("b", clock_.Now())), Contains("commit 1"));
}

TEST_F(JobMachineTest, OverSelection_ClosesAtClientsAndCancelsTheRest) {
  proto::JobConfig config = Config(2);
  config.mutable_selection()->set_rule("uniform");
  config.mutable_selection()->set_clients(2);
  config.mutable_selection()->set_over_select(1.5);
  config.mutable_selection()->set_min_ready(3);
  StartNew(config);
  for (const char* client : {"a", "b", "c"}) Ready(client);
  Update("c", 1);
  const Words words = Update("a", 1);
  EXPECT_EQ(words[0], "cancel b 1");
  EXPECT_EQ(words[1], "commit 1");
  EXPECT_THAT(Update("b", 1), ElementsAre("ABORTED"));
}

TEST_F(JobMachineTest, OnOpenFailed_WaitsAndTriesTheSameAttemptAgain) {
  StartNew(Config(2));
  Ready("a");
  Ready("b");
  Take(job_->OnOpenFailed(absl::ResourceExhaustedError("disk full"), clock_.Now()));
  EXPECT_THAT(Status().message(), HasSubstr("disk full"));
  EXPECT_THAT(After(absl::Seconds(4)), IsEmpty());
  EXPECT_THAT(After(absl::Seconds(1)), ElementsAre("open 1.1 a b", "train a 1", "train b 1"));
}

TEST_F(JobMachineTest, SecondsLeft_FromTypicalRounds) {
  StartNew(Config(5));
  Ready("a");
  Ready("b");
  EXPECT_LT(Status().seconds_left(), 0);
  clock_.Advance(absl::Seconds(10));
  WholeRound(1, 5);
  EXPECT_EQ(Status().seconds_left(), 40);
  clock_.Advance(absl::Seconds(4));
  EXPECT_EQ(Status().seconds_left(), 36);
}

TEST_F(JobMachineTest, Resume_BetweenRoundsGoesOn) {
  StartNew(Config(3));
  Ready("a");
  Ready("b");
  WholeRound(1, 5);
  const JobHistory history = job_->history();
  StartNew(Config(3), history);
  EXPECT_EQ(Status().state(), proto::RUNNING);
  Ready("a");
  EXPECT_THAT(Ready("b"), ElementsAre("open 2.1 a b", "train a 2", "train b 2"));
}

TEST_F(JobMachineTest, Resume_MidRoundKeepsUpdatesAndAsksTheOthers) {
  JobHistory history;
  history.started = clock_.Now();
  history.open = OpenAttempt{{"a", "b"}, {}, clock_.Now()};
  history.open->updates.emplace_back();
  history.open->updates[0].set_client_id("a");
  history.open->updates[0].set_round(1);
  history.open->updates[0].set_examples(7);
  StartNew(Config(3), history);
  EXPECT_THAT(Ready("a"), IsEmpty());
  EXPECT_THAT(Ready("b"), ElementsAre("train b 1"));
  EXPECT_THAT(Update("b", 1), Contains("commit 1"));
  EXPECT_EQ(Status().rounds(0).examples(), 17u);
}

TEST_F(JobMachineTest, Resume_DueEvaluationWaitsForTheClientsToRejoinWithinTheGrace) {
  hold_commits_ = true;
  StartNew(Config(1));
  Ready("a");
  Ready("b");
  Update("a", 1);
  Update("b", 1);
  JobHistory history = job_->history();
  history.rounds.push_back({job_->Summary(clock_.Now()), Evaluated::kNo});
  StartNew(Config(1), history);
  EXPECT_THAT(Ready("a"), IsEmpty());
  EXPECT_THAT(Status().message(), HasSubstr("waiting for clients to evaluate"));
  EXPECT_THAT(After(absl::Seconds(30)), ElementsAre("evaluate a 1 rows 0"));
  EXPECT_THAT(Evaluation("a", 1, 5), ElementsAre("save 1", "end FINISHED"));
}

TEST_F(JobMachineTest, Resume_AfterTheFinalEvaluationEnds) {
  proto::JobConfig config = Config(10);
  config.mutable_stop()->set_target_accuracy(0.9);
  JobHistory history;
  history.started = clock_.Now();
  history.rounds.resize(1);
  history.rounds[0].status.set_round(1);
  history.rounds[0].status.set_accuracy(0.8);
  history.rounds[0].evaluated = Evaluated::kFinal;
  StartNew(config, history);
  EXPECT_EQ(Status().state(), proto::FINISHED);
}

}  // namespace
}  // namespace weft::server
