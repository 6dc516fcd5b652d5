#include "simulation/ranks/workers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "adapters/layout.h"
#include "simulation/ranks/convert.h"
#include "simulation/ranks/testing/recording_link.h"

namespace weft::simulation {
namespace {

using ::testing::ElementsAre;

// Has answers ready.
class FakeLink final : public RecordingLink {
 public:
  absl::StatusOr<std::string> Receive(int from) override {
    if (answers[from].empty()) return absl::UnavailableError("gone");
    std::string bytes = std::move(answers[from].front());
    answers[from].pop_front();
    return bytes;
  }
  void Ready(int from, const Answer& answer) { answers[from].push_back(answer.SerializeAsString()); }

  std::deque<std::string> answers[3];
};

Adapter SomeAdapter(float first) {
  Adapter adapter(*Layout::Create({{"lora_a", "lora_a", {2, 3}}}));
  for (size_t i = 0; i < adapter.values().size(); ++i) adapter.values()[i] = first + static_cast<float>(i);
  return adapter;
}

absl::StatusOr<std::shared_ptr<const KeptState>> Nothing(int64_t) { return std::make_shared<const KeptState>(); }

TEST(ConvertTest, AdapterAndKeptStateComeBack) {
  KeptState state;
  state.control = std::make_shared<const Adapter>(SomeAdapter(3));
  state.rank = 2;
  state.round = 7;
  Kept message;
  ToMessage(state, &message);
  const auto back = FromMessage(message);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ((*back)->error, nullptr);
  EXPECT_EQ((*back)->local, nullptr);
  EXPECT_EQ((*back)->rank, 2);
  EXPECT_EQ((*back)->round, 7);
  EXPECT_THAT((*back)->control->values(), ElementsAre(3, 4, 5, 6, 7, 8));
  message.mutable_control()->mutable_values()->pop_back();
  EXPECT_EQ(FromMessage(message).status().code(), absl::StatusCode::kInternal);
}

TEST(WorkersTest, BaseStepsAreSentOnceARun) {
  FakeLink link;
  Workers workers(&link);
  const Adapter state = SomeAdapter(1);
  const std::vector<std::pair<int64_t, std::shared_ptr<const Adapter>>> steps = {
      {1, std::make_shared<const Adapter>(SomeAdapter(2))}};
  ASSERT_TRUE(workers.OpenRun({}).ok());
  ASSERT_TRUE(workers.OpenAttempt(2, 5, state, steps).ok());
  ASSERT_TRUE(workers.OpenAttempt(3, 5, state, steps).ok());
  ASSERT_TRUE(workers.OpenRun({}).ok());
  ASSERT_TRUE(workers.OpenAttempt(2, 5, state, steps).ok());
  std::string sent;
  for (const Command& command : link.sent[2]) sent += command.has_run() ? 'r' : command.has_step() ? 's' : 'a';
  EXPECT_EQ(sent, "rsaarsa");
  EXPECT_EQ(link.sent[2][1].step().round(), 1);
}

TEST(WorkersTest, AnswersGiveUpdatesOrWhyThereIsNone) {
  FakeLink link;
  Workers workers(&link);
  ASSERT_TRUE(workers.Train(1, {{4, 9}, {2}}, Nothing).ok());
  ASSERT_EQ(link.sent[1][0].train().groups_size(), 2);
  EXPECT_EQ(link.sent[1][0].train().groups(0).clients(1).index(), 9);
  Answer answer;
  answer.add_trained()->set_bytes(12);
  Trained& failed = *answer.add_trained();
  failed.set_code(static_cast<int>(absl::StatusCode::kOutOfRange));
  failed.set_message("too wide");
  Trained& refused = *answer.add_trained();
  refused.set_valid_code(static_cast<int>(absl::StatusCode::kInvalidArgument));
  link.Ready(1, answer);
  const auto results = workers.Trained(1);
  ASSERT_TRUE(results.ok());
  ASSERT_EQ(results->size(), 3);
  ASSERT_TRUE((*results)[0].ok());
  EXPECT_EQ((*results)[0]->rank, 1);
  EXPECT_EQ((*results)[0]->bytes, 12);
  EXPECT_FALSE((*results)[0]->tensors.has_value());
  EXPECT_EQ((*results)[1].status(), absl::OutOfRangeError("too wide"));
  EXPECT_EQ((*results)[2]->valid.code(), absl::StatusCode::kInvalidArgument);
}

TEST(WorkersTest, ARanksErrorNamesIt) {
  FakeLink link;
  Workers workers(&link);
  ASSERT_TRUE(workers.Train(2, {{1}}, Nothing).ok());
  Answer answer;
  answer.set_code(static_cast<int>(absl::StatusCode::kResourceExhausted));
  answer.set_message("no memory");
  link.Ready(2, answer);
  EXPECT_EQ(workers.Trained(2).status(), absl::ResourceExhaustedError("rank 2: no memory"));
}

TEST(WorkersTest, AcceptedClientsAreSentBeforeAnythingElseIsAsked) {
  FakeLink link;
  Workers workers(&link);
  workers.Accept(1, 4);
  workers.Accept(1, 5);
  EXPECT_TRUE(link.sent[1].empty());
  ASSERT_TRUE(workers.Train(1, {{6}}, Nothing).ok());
  ASSERT_EQ(link.sent[1].size(), 1);
  EXPECT_THAT(link.sent[1][0].train().accepted(), ElementsAre(4, 5));
  link.Ready(1, Answer());
  ASSERT_TRUE(workers.Trained(1).ok());
  workers.Accept(1, 6);
  link.Ready(1, Answer());
  link.Ready(2, Answer());
  ASSERT_TRUE(workers.MergeInto(nullptr).ok());  // nobody has folded anything
  ASSERT_EQ(link.sent[1].size(), 2);
  EXPECT_THAT(link.sent[1][1].share().accepted(), ElementsAre(6));
  EXPECT_EQ(link.sent[2].size(), 1);
}

TEST(WorkersTest, QuitTakesWhatARankIsStillAnswering) {
  FakeLink link;
  Workers workers(&link);
  ASSERT_TRUE(workers.Train(2, {{1}}, Nothing).ok());
  link.Ready(2, Answer());
  workers.Quit(6);
  EXPECT_TRUE(link.answers[2].empty());
  EXPECT_EQ(link.sent[1].back().quit().exit_code(), 6);
  EXPECT_EQ(link.sent[2].back().quit().exit_code(), 6);
}

}  // namespace
}  // namespace weft::simulation
