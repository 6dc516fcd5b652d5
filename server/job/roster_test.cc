#include "server/job/roster.h"

#include <gtest/gtest.h>

namespace weft::server {
namespace {

using Ids = std::vector<std::string>;

Roster Three() {
  Roster roster;
  roster.Add("b", {10, 5});
  roster.Add("a", {10, 5});
  roster.Add("c", {10, 0});
  return roster;
}

TEST(RosterTest, ForTraining_GivesClientsWithTrainingRowsInOrder) {
  Roster roster = Three();
  roster.Add("only-tests", {0, 5});
  EXPECT_EQ(roster.ForTraining(1, 1), (Ids{"a", "b", "c"}));
  EXPECT_EQ(roster.trainers(), 3);
}

TEST(RosterTest, ForEvaluation_GivesClientsWithTestRows) {
  Roster roster = Three();
  roster.Add("only-tests", {0, 5});
  EXPECT_EQ(roster.ForEvaluation(1), (Ids{"a", "b", "only-tests"}));
}

TEST(RosterTest, Failed_IsPassedOverInThatRoundOnly) {
  Roster roster = Three();
  roster.Failed("a", 1);
  EXPECT_EQ(roster.ForTraining(1, 2), (Ids{"b", "c"}));
  EXPECT_EQ(roster.ForEvaluation(1), (Ids{"a", "b"}));
  EXPECT_EQ(roster.ForTraining(2, 2), (Ids{"a", "b", "c"}));
}

TEST(RosterTest, ForTraining_TooFewOthersAsksEverybodyAgain) {
  Roster roster = Three();
  roster.Failed("a", 1);
  EXPECT_EQ(roster.ForTraining(1, 3), (Ids{"a", "b", "c"}));
}

TEST(RosterTest, Stalled_SitsOutLongerEachTimeUntilItAnswers) {
  Roster roster = Three();
  roster.Stalled("a", 1);
  EXPECT_EQ(roster.ForEvaluation(1), Ids{"b"});
  EXPECT_EQ(roster.ForTraining(2, 1), (Ids{"a", "b", "c"}));
  roster.Stalled("a", 2);
  EXPECT_EQ(roster.ForTraining(3, 1), (Ids{"b", "c"}));
  EXPECT_EQ(roster.ForTraining(4, 1), (Ids{"a", "b", "c"}));
  for (int i = 0; i < 10; ++i) roster.Stalled("a", 4);
  EXPECT_EQ(roster.ForTraining(11, 1), (Ids{"b", "c"}));
  EXPECT_EQ(roster.ForTraining(12, 1), (Ids{"a", "b", "c"}));
  roster.Answered("a");
  roster.Stalled("a", 12);
  EXPECT_EQ(roster.ForTraining(13, 1), (Ids{"a", "b", "c"}));
}

TEST(RosterTest, Remove_ForgetsTheClient) {
  Roster roster = Three();
  for (const char* client : {"a", "b", "c"}) roster.Remove(client);
  EXPECT_TRUE(roster.empty());
  roster.Stalled("a", 1);
  roster.Failed("a", 1);
  roster.Answered("a");
  EXPECT_TRUE(roster.empty());
}

}  // namespace
}  // namespace weft::server
