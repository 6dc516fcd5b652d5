#include "server/round/round.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "server/round/round_invariants.h"

namespace weft::server {
namespace {

using ::testing::HasSubstr;
using MemberState = Round::MemberState;

// Drives a round with a clock cranked by hand, and checks the invariants after every step. Actions read as
// "plan a", "cancel b", "close", "abandon".
class RoundTest : public testing::Test {
 protected:
  void Make(std::vector<std::string> cohort, int64_t min_answers, int64_t close_at) {
    Round::Options options;
    options.cohort = std::move(cohort);
    options.min_answers = min_answers;
    options.close_at = close_at;
    options.progress_timeout = absl::Seconds(60);
    options.rejoin_grace = absl::Seconds(30);
    round_ = std::make_unique<Round>(options);
    invariants_ = RoundInvariants();
  }

  void StartNew(std::vector<std::string> cohort, int64_t min_answers, int64_t close_at) {
    Make(std::move(cohort), min_answers, close_at);
    Step(round_->Start(now_));
  }

  std::vector<std::string> Step(const RoundActions& actions) {
    EXPECT_EQ(invariants_.Check(*round_, actions), "");
    std::vector<std::string> words;
    for (const RoundAction& action : actions) {
      if (const auto* plan = std::get_if<SendPlan>(&action)) {
        words.push_back("plan " + plan->client);
      } else if (const auto* cancel = std::get_if<CancelWork>(&action)) {
        words.push_back(absl::StrCat("cancel ", cancel->client, cancel->stalled ? " (stalled)" : ""));
      } else if (std::holds_alternative<CloseRound>(action)) {
        words.push_back("close");
      } else {
        words.push_back("abandon");
        abandoned_because_ = std::get<AbandonRound>(action).reason;
      }
    }
    return words;
  }

  std::vector<std::string> Answer(const std::string& client) {
    auto actions = round_->OnAnswer(client, now_);
    EXPECT_TRUE(actions.ok()) << actions.status();
    return actions.ok() ? Step(*actions) : std::vector<std::string>();
  }
  std::vector<std::string> Progress(const std::string& client, int64_t done) {
    return Step(round_->OnProgress(client, "training", done, now_));
  }
  std::vector<std::string> After(absl::Duration time) {
    now_ += time;
    return Step(round_->OnTick(now_));
  }

  using Words = std::vector<std::string>;
  absl::Time now_ = absl::FromUnixSeconds(1'000'000'000);
  std::unique_ptr<Round> round_;
  RoundInvariants invariants_;
  std::string abandoned_because_;
};

TEST_F(RoundTest, Start_SendsAPlanToEveryMember) {
  Make({"a", "b"}, 1, 2);
  EXPECT_EQ(Step(round_->Start(now_)), (Words{"plan a", "plan b"}));
}

TEST_F(RoundTest, OnAnswer_AllInCloses) {
  StartNew({"a", "b"}, 1, 2);
  EXPECT_EQ(Answer("b"), Words{});
  EXPECT_EQ(Answer("a"), Words{"close"});
  EXPECT_EQ(round_->state(), Round::State::kClosed);
}

TEST_F(RoundTest, OnAnswer_OverSelectionClosesEarlyAndCancelsTheRest) {
  StartNew({"a", "b", "c"}, 1, 2);
  EXPECT_EQ(Answer("c"), Words{});
  EXPECT_EQ(Answer("a"), (Words{"cancel b", "close"}));
}

TEST_F(RoundTest, CheckAnswer_LateIsAborted) {
  StartNew({"a", "b"}, 1, 1);
  Answer("a");
  EXPECT_EQ(round_->OnAnswer("b", now_).status().code(), absl::StatusCode::kAborted);
}

TEST_F(RoundTest, CheckAnswer_DuplicateAlreadyExists) {
  StartNew({"a", "b"}, 1, 2);
  Answer("a");
  EXPECT_EQ(round_->OnAnswer("a", now_).status().code(), absl::StatusCode::kAlreadyExists);
  Answer("b");
  EXPECT_EQ(round_->OnAnswer("a", now_).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(RoundTest, CheckAnswer_UnselectedFailsPrecondition) {
  StartNew({"a"}, 1, 1);
  EXPECT_EQ(round_->OnAnswer("z", now_).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(RoundTest, CheckAnswer_AfterFailureIsAbortedWithItsReason) {
  StartNew({"a", "b"}, 1, 2);
  Step(round_->OnFailure("a", "out of memory", now_));
  const absl::Status status = round_->OnAnswer("a", now_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(status.message(), HasSubstr("out of memory"));
}

TEST_F(RoundTest, OnTick_MovingClientsHoldTheRoundForEver) {
  StartNew({"a", "b"}, 1, 2);
  Answer("a");
  for (int step = 0; step < 100; ++step) {
    Progress("b", step);
    EXPECT_EQ(After(absl::Seconds(59)), Words{});
  }
  EXPECT_EQ(Answer("b"), Words{"close"});
}

TEST_F(RoundTest, OnTick_StalledClientNoLongerHoldsTheRoundUp) {
  StartNew({"a", "b"}, 1, 2);
  Answer("a");
  EXPECT_EQ(After(absl::Seconds(59)), Words{});
  EXPECT_EQ(After(absl::Seconds(1)), (Words{"cancel b (stalled)", "close"}));
}

TEST_F(RoundTest, OnProgress_RepeatingItselfIsNoSignOfLife) {
  StartNew({"a", "b"}, 1, 2);
  Answer("a");
  Progress("b", 7);
  EXPECT_EQ(After(absl::Seconds(59)), Words{});
  Progress("b", 7);
  EXPECT_EQ(After(absl::Seconds(1)), (Words{"cancel b (stalled)", "close"}));
}

TEST_F(RoundTest, OnAnswer_OfAStalledClientIsStillTakenWhileTheRoundIsOpen) {
  StartNew({"a", "b"}, 2, 2);
  Progress("b", 1);
  now_ += absl::Seconds(30);
  Progress("a", 1);
  EXPECT_EQ(After(absl::Seconds(40)), Words{});
  EXPECT_TRUE(round_->Stalled("b", now_));
  EXPECT_EQ(Answer("b"), Words{});
  EXPECT_EQ(Answer("a"), Words{"close"});
}

TEST_F(RoundTest, OnTick_EverybodyStalledBelowTheMinimumAbandons) {
  StartNew({"a", "b"}, 2, 2);
  Answer("a");
  EXPECT_EQ(After(absl::Seconds(60)), (Words{"cancel b (stalled)", "abandon"}));
  EXPECT_THAT(abandoned_because_, HasSubstr("1 of at least 2 answers"));
  EXPECT_THAT(abandoned_because_, HasSubstr("b has not moved for 1m"));
}

TEST_F(RoundTest, OnFailure_LeavesTheRoundToTheOthers) {
  StartNew({"a", "b"}, 1, 2);
  EXPECT_EQ(Step(round_->OnFailure("a", "bad data", now_)), Words{});
  EXPECT_EQ(Answer("b"), Words{"close"});
}

TEST_F(RoundTest, OnFailure_MinimumOutOfReachAbandonsAtOnce) {
  StartNew({"a", "b", "c"}, 3, 3);
  Answer("a");
  EXPECT_EQ(Step(round_->OnFailure("b", "bad data", now_)), (Words{"cancel c", "abandon"}));
  EXPECT_THAT(abandoned_because_, HasSubstr("b failed: bad data"));
}

TEST_F(RoundTest, OnReady_WithinTheGraceKeepsThePlaceAndGetsThePlanAgain) {
  StartNew({"a", "b"}, 1, 2);
  Answer("a");
  EXPECT_EQ(Step(round_->OnLost("b", now_)), Words{});
  EXPECT_EQ(After(absl::Seconds(29)), Words{});
  EXPECT_EQ(Step(round_->OnReady("b", now_)), Words{"plan b"});
  EXPECT_EQ(After(absl::Seconds(59)), Words{});
  EXPECT_EQ(Answer("b"), Words{"close"});
}

TEST_F(RoundTest, OnTick_GraceOverClosesWithoutTheLostClient) {
  StartNew({"a", "b"}, 1, 2);
  Answer("a");
  Step(round_->OnLost("b", now_));
  EXPECT_EQ(After(absl::Seconds(30)), Words{"close"});
  EXPECT_EQ(round_->Members().at("b"), MemberState::kGone);
}

TEST_F(RoundTest, OnReady_AfterItsAnswerIsInSendsNothing) {
  StartNew({"a", "b"}, 1, 2);
  Answer("a");
  Step(round_->OnLost("a", now_));
  EXPECT_EQ(Step(round_->OnReady("a", now_)), Words{});
}

TEST_F(RoundTest, OnReady_AfterAFailureSendsNothing) {
  StartNew({"a", "b"}, 1, 2);
  Step(round_->OnFailure("a", "bad data", now_));
  EXPECT_EQ(Step(round_->OnReady("a", now_)), Words{});
}

TEST_F(RoundTest, OnReady_OfALateClientIsNotItsRound) {
  StartNew({"a"}, 1, 1);
  EXPECT_EQ(Step(round_->OnReady("late", now_)), Words{});
}

TEST_F(RoundTest, OnAnswer_OfALostClientIsTaken) {
  StartNew({"a"}, 1, 1);
  Step(round_->OnLost("a", now_));
  EXPECT_EQ(Answer("a"), Words{"close"});
}

TEST_F(RoundTest, OnGone_IsNotWaitedFor) {
  StartNew({"a", "b"}, 1, 2);
  Answer("a");
  EXPECT_EQ(Step(round_->OnGone("b", now_)), Words{"close"});
}

TEST_F(RoundTest, OnGone_OfEverybodyAbandons) {
  StartNew({"a"}, 1, 1);
  EXPECT_EQ(Step(round_->OnGone("a", now_)), Words{"abandon"});
}

TEST_F(RoundTest, OnGone_WithNoMinimumClosesEmpty) {
  StartNew({"a"}, 0, 1);
  EXPECT_EQ(Step(round_->OnGone("a", now_)), Words{"close"});
}

TEST_F(RoundTest, Start_CohortBelowTheMinimumAbandons) {
  Make({"a"}, 2, 1);
  const Words words = Step(round_->Start(now_));
  EXPECT_EQ(words, (Words{"plan a", "cancel a", "abandon"}));
}

TEST_F(RoundTest, Resume_KeepsAnswersAndAsksTheOthersWhenTheyRejoin) {
  Make({"a", "b", "c"}, 1, 3);
  EXPECT_EQ(Step(round_->Resume({"a"}, now_)), Words{});
  EXPECT_EQ(Step(round_->OnReady("a", now_)), Words{});
  EXPECT_EQ(Step(round_->OnReady("b", now_)), Words{"plan b"});
  EXPECT_EQ(After(absl::Seconds(30)), Words{});
  EXPECT_EQ(Answer("b"), Words{"close"});
}

TEST_F(RoundTest, Resume_WithEveryAnswerInCloses) {
  Make({"a", "b"}, 1, 2);
  EXPECT_EQ(Step(round_->Resume({"a", "b"}, now_)), Words{"close"});
}

// Random events in random order over many small rounds; the fixture checks the invariants after each of them, and time
// alone must end every round.
TEST_F(RoundTest, AnyEvents_KeepTheInvariants) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    Philox random(seed, StreamId("round_test"));
    const int64_t size = 1 + static_cast<int64_t>(random.NextBelow(5));
    std::vector<std::string> cohort;
    for (int64_t i = 0; i < size; ++i) cohort.push_back(absl::StrCat("c", i));
    const auto min_answers = static_cast<int64_t>(random.NextBelow(static_cast<uint64_t>(size) + 1));
    const int64_t floor = std::max<int64_t>(1, min_answers);
    Make(cohort, min_answers, floor + static_cast<int64_t>(random.NextBelow(static_cast<uint64_t>(size - floor) + 1)));
    Step(random.NextBelow(2) == 0 ? round_->Start(now_) : round_->Resume({"c0"}, now_));
    for (int event = 0; event < 40; ++event) {
      const std::string client = absl::StrCat("c", random.NextBelow(static_cast<uint64_t>(size) + 1));
      now_ += absl::Seconds(random.NextBelow(20));
      switch (random.NextBelow(8)) {
        case 0:
          Step(round_->OnReady(client, now_));
          break;
        case 1:
          Step(round_->OnLost(client, now_));
          break;
        case 2:
          Step(round_->OnGone(client, now_));
          break;
        case 3:
          Step(round_->OnFailure(client, "why", now_));
          break;
        case 4: {
          auto actions = round_->OnAnswer(client, now_);
          EXPECT_EQ(actions.ok(), actions.status().ok());
          if (actions.ok()) Step(*actions);
          break;
        }
        case 5:
          Step(round_->OnTick(now_));
          break;
        default:
          Step(round_->OnProgress(client, "training", static_cast<int64_t>(random.NextBelow(3)), now_));
      }
    }
    After(absl::Seconds(61));
    ASSERT_NE(round_->state(), Round::State::kOpen) << "seed " << seed;
    if (testing::Test::HasFailure()) FAIL() << "seed " << seed;
  }
}

TEST(RoundInvariantsTest, Check_ActionAfterTheEndIsFound) {
  Round::Options options;
  options.cohort = {"a"};
  Round round(options);
  RoundInvariants invariants;
  EXPECT_EQ(invariants.Check(round, round.Start(absl::UnixEpoch())), "");
  EXPECT_EQ(invariants.Check(round, *round.OnAnswer("a", absl::UnixEpoch())), "");
  EXPECT_EQ(invariants.Check(round, {SendPlan{"a"}}), "an action after the end");
}

}  // namespace
}  // namespace weft::server
