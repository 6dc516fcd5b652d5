#include "client/local_update.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "adapters/components.h"
#include "adapters/factors.h"
#include "adapters/forms/form.h"
#include "client/primitives.h"
#include "common/random.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

std::vector<TensorSpec> JobTensors() {
  return {{"m.lora_A.weight", "lora_a", {3, 4}},
          {"m.lora_B.weight", "lora_b", {2, 3}},
          {"n.lora_A.weight", "lora_a", {3, 2}},
          {"n.lora_B.weight", "lora_b", {5, 3}},
          {"h", "head", {2}}};
}

Adapter Random(const std::shared_ptr<const Layout>& layout, uint64_t seed) {
  Adapter adapter(layout);
  Philox random(seed, StreamId("test"));
  for (float& value : adapter.values()) value = static_cast<float>(random.NextNormal());
  return adapter;
}

// Trained values whose distance from `start` is small and exactly an fp32, in the first `rank` components.
TrainResult TrainFrom(const CohortMember& member, uint64_t seed, const std::vector<std::string>& roles) {
  Adapter trained = member.start->Clone();
  Philox random(seed, StreamId("train"));
  for (const TensorSpec& tensor : trained.layout().tensors()) {
    for (float& value : trained.tensor(tensor)) {
      const auto step = static_cast<float>(random.NextNormal() * 0.01);
      if (std::find(roles.begin(), roles.end(), tensor.role) != roles.end()) value += step;
    }
  }
  if (member.rank > 0) KeepPrefix(member.rank, &trained);
  proto::TrainMetrics metrics;
  metrics.set_steps(4);
  return {std::move(trained), metrics};
}

class LocalUpdateTest : public testing::Test {
 protected:
  LocalUpdateTest() {
    job_.layout = *Layout::Create(JobTensors());
    job_.adapter.set_form("lora");
    auto& config = *job_.adapter.mutable_config()->mutable_fields();
    config["rank"].set_number_value(3);
    config["target_modules"].mutable_list_value()->add_values()->set_string_value("query");
    Broadcast(job_.layout);
    plan_.set_job_id("job");
    plan_.set_round(3);
    plan_.set_seed(11);
    plan_.mutable_training()->set_learning_rate(0.5);
    Send({"lora_a", "lora_b", "head"});
  }

  void Broadcast(const std::shared_ptr<const Layout>& layout) {
    broadcast_ = std::make_shared<const Adapter>(Random(layout, 1));
  }
  void Send(const std::vector<std::string>& roles) {
    plan_.clear_roles_sent();
    plan_.clear_roles_trained();
    for (const std::string& role : roles) plan_.add_roles_sent(role);
    for (const std::string& role : roles) {
      if (!role.starts_with("control.")) plan_.add_roles_trained(role);
    }
  }
  LocalUpdate Begin() const {
    auto local = LocalUpdate::Begin(job_, plan_, broadcast_, kept_);
    EXPECT_TRUE(local.ok()) << local.status();
    return *std::move(local);
  }
  // One round; start_ and trained_ are what it went from and to.
  LocalResult Round(uint64_t seed = 5) {
    LocalUpdate local = Begin();
    const TrainResult trained =
        TrainFrom(local.Member("c", nullptr), seed, {plan_.roles_trained().begin(), plan_.roles_trained().end()});
    start_.emplace(local.start().Clone());
    trained_.emplace(trained.adapter.Clone());
    auto result = std::move(local).End("c", 10, trained);
    EXPECT_TRUE(result.ok()) << result.status();
    return *std::move(result);
  }
  // trained - start of the sent layout.
  Adapter Delta(int64_t rank = 0) const {
    Adapter delta = trained_->Clone();
    for (size_t i = 0; i < delta.values().size(); ++i) delta.values()[i] -= start_->values()[i];
    return Cut(delta, *SentLayout(*job_.layout, {plan_.roles_sent().begin(), plan_.roles_sent().end()}, rank));
  }
  void Commit(const LocalResult& result) { kept_ = std::make_shared<const KeptState>(result.next); }
  void ExpectRefused(const std::string& why) const {
    const absl::Status status = LocalUpdate::Begin(job_, plan_, broadcast_, kept_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  }

  LocalJob job_;
  proto::Plan plan_;
  std::shared_ptr<const Adapter> broadcast_;
  std::shared_ptr<const KeptState> kept_;
  std::optional<Adapter> start_, trained_;
};

TEST_F(LocalUpdateTest, End_PlainUpdateIsTheDelta) {
  const LocalResult result = Round();
  EXPECT_EQ(start_->ContentHash(), broadcast_->ContentHash());
  EXPECT_EQ(result.tensors.encoding(), Encoding::kF32);
  EXPECT_EQ(result.tensors.Decode().ContentHash(), Delta().ContentHash());
  EXPECT_EQ(result.components, "");
  EXPECT_EQ(result.update.job_id(), "job");
  EXPECT_EQ(result.update.round(), 3);
  EXPECT_EQ(result.update.client_id(), "c");
  EXPECT_EQ(result.update.examples(), 10u);
  EXPECT_EQ(result.update.rank(), 0);
  EXPECT_EQ(result.update.metrics().steps(), 4);
  EXPECT_TRUE(result.next.empty());
  EXPECT_EQ(result.next.round, 3);
}

TEST_F(LocalUpdateTest, Member_CarriesThePlansSeed) {
  const LocalUpdate local = Begin();
  const CohortMember member = local.Member("c", nullptr);
  EXPECT_EQ(member.client_id, "c");
  EXPECT_EQ(member.seed, 11u);
  EXPECT_EQ(member.rank, 0);
  EXPECT_EQ(member.control, nullptr);
}

TEST_F(LocalUpdateTest, Begin_RefusesABroadcastThatIsNotTheJobs) {
  Broadcast(*Layout::Create({{"h", "head", {2}}}));
  ExpectRefused("broadcast state: tensor \"m.lora_A.weight\"");
}

TEST_F(LocalUpdateTest, End_RefusesARoleThatNobodyTrains) {
  auto tensors = JobTensors();
  tensors.push_back({"server.m", "server.m", {2}});
  Broadcast(*Layout::Create(tensors));
  plan_.add_roles_sent("server.m");
  LocalUpdate local = Begin();
  const TrainResult trained = TrainFrom(local.Member("c", nullptr), 5, {"lora_b"});
  EXPECT_THAT(std::string(std::move(local).End("c", 10, trained).status().message()),
              HasSubstr("roles sent: found server.m"));
}

TEST_F(LocalUpdateTest, Begin_TheSmallestRankCounts) {
  const auto rank = [&](int64_t planned, int64_t max) {
    plan_.set_rank(planned);
    job_.max_rank = max;
    return Begin().rank();
  };
  EXPECT_EQ(rank(0, 0), 0);
  EXPECT_EQ(rank(2, 0), 2);
  EXPECT_EQ(rank(0, 1), 1);
  EXPECT_EQ(rank(2, 1), 1);
  EXPECT_EQ(rank(1, 2), 1);
  EXPECT_EQ(rank(3, 8), 0);  // all there are
  plan_.set_rank(-1);
  ExpectRefused("rank: found -1");
}

TEST_F(LocalUpdateTest, End_APrefixOfTheComponentsIsTrainedAndSent) {
  plan_.set_rank(2);
  const LocalResult result = Round();
  EXPECT_EQ(result.update.rank(), 2);
  Adapter expected = broadcast_->Clone();
  KeepPrefix(2, &expected);
  EXPECT_EQ(start_->ContentHash(), expected.ContentHash());
  EXPECT_EQ(result.tensors.layout().tensors()[0].shape, (std::vector<int64_t>{2, 4}));
  EXPECT_EQ(result.tensors.Decode().ContentHash(), Delta(2).ContentHash());
}

TEST_F(LocalUpdateTest, Begin_ReinitialisesRolesFromTheSeed) {
  plan_.mutable_reinitialise()->set_seed(99);
  plan_.mutable_reinitialise()->add_roles("lora_a");
  Adapter fresh(job_.layout);
  ASSERT_TRUE((*CreateForm(job_.adapter))->Reinitialise(99, &fresh).ok());
  const LocalUpdate local = Begin();
  for (const TensorSpec& tensor : job_.layout->tensors()) {
    const Adapter& expected = tensor.role == "lora_a" ? fresh : *broadcast_;
    EXPECT_TRUE(std::ranges::equal(local.start().tensor(tensor), std::as_const(expected).tensor(tensor)))
        << tensor.name;
  }
  job_.adapter.set_form("nosuch");
  ExpectRefused("nosuch");
}

TEST_F(LocalUpdateTest, Begin_OwnRolesReplaceTheBroadcastOnesInTheNextRound) {
  Send({"lora_a"});
  plan_.add_roles_trained("lora_b");
  plan_.add_roles_local("lora_b");
  const LocalResult first = Round();
  EXPECT_EQ(start_->ContentHash(), broadcast_->ContentHash());  // nothing is kept yet
  ASSERT_EQ(first.next.local->layout().tensors().size(), 2u);
  Commit(first);
  const LocalUpdate second = Begin();
  for (const TensorSpec& tensor : job_.layout->tensors()) {
    const Adapter& expected = tensor.role == "lora_b" ? *trained_ : *broadcast_;
    EXPECT_TRUE(std::ranges::equal(second.start().tensor(tensor), std::as_const(expected).tensor(tensor)))
        << tensor.name;
  }
  proto::EvaluationPlan evaluation;
  EXPECT_EQ(EvaluatedAdapter(job_, evaluation, *broadcast_, *kept_)->ContentHash(), broadcast_->ContentHash());
  evaluation.add_roles_local("lora_b");
  EXPECT_EQ(EvaluatedAdapter(job_, evaluation, *broadcast_, *kept_)->ContentHash(), second.start().ContentHash());
}

TEST_F(LocalUpdateTest, Begin_RefusesKeptTensorsOfAnotherJob) {
  const auto other = std::make_shared<const Adapter>(*Layout::Create({{"h", "head", {3}}}));
  KeptState state;
  state.error = other;
  kept_ = std::make_shared<const KeptState>(state);
  ExpectRefused("kept error: tensor \"h\"");
  state = KeptState();
  state.local = other;
  kept_ = std::make_shared<const KeptState>(state);
  plan_.add_roles_local("head");
  ExpectRefused("kept local tensors: tensor \"h\"");
}

class ScaffoldTest : public LocalUpdateTest {
 protected:
  ScaffoldTest() {
    auto tensors = JobTensors();
    for (const TensorSpec& tensor : JobTensors()) {
      tensors.push_back({"control." + tensor.name, "control." + tensor.role, tensor.shape});
    }
    state_layout_ = *Layout::Create(tensors);
    Broadcast(state_layout_);
    Send({"lora_a", "lora_b", "head", "control.lora_a", "control.lora_b", "control.head"});
    plan_.set_control_variates(true);
  }
  float C(const Adapter& adapter, const std::string& name, size_t i) const {
    return adapter.tensor(*adapter.layout().Find("control." + name))[i];
  }
  std::shared_ptr<const Layout> state_layout_;
};

TEST_F(ScaffoldTest, End_SendsTheChangeOfTheControlVariate) {
  const LocalResult first = Round();
  ASSERT_NE(first.next.control, nullptr);
  EXPECT_EQ(first.tensors.layout(), *state_layout_);
  Commit(first);
  // Another c, so that c - c_k is none of the two.
  broadcast_ = std::make_shared<const Adapter>(Random(state_layout_, 7));
  LocalUpdate local = Begin();
  const CohortMember member = local.Member("c", nullptr);
  ASSERT_NE(member.control, nullptr);
  EXPECT_EQ(member.control->layout(), *job_.layout);
  const Adapter start = local.start().Clone();
  const TrainResult trained = TrainFrom(member, 6, {"lora_a", "lora_b", "head"});
  for (const TensorSpec& tensor : job_.layout->tensors()) {
    for (size_t i = 0; i < static_cast<size_t>(tensor.size); ++i) {
      EXPECT_EQ(member.control->tensor(tensor)[i],
                C(*broadcast_, tensor.name, i) - C(*first.next.control, tensor.name, i));
    }
  }
  const auto second = std::move(local).End("c", 10, trained);
  ASSERT_TRUE(second.ok()) << second.status();
  const Adapter sent = second->tensors.Decode();
  for (const TensorSpec& tensor : job_.layout->tensors()) {
    for (size_t i = 0; i < static_cast<size_t>(tensor.size); ++i) {
      const float before = C(*first.next.control, tensor.name, i), after = C(*second->next.control, tensor.name, i);
      const double slope = (double{start.tensor(tensor)[i]} - trained.adapter.tensor(tensor)[i]) / (4 * 0.5);
      EXPECT_FLOAT_EQ(after, static_cast<float>(before - C(*broadcast_, tensor.name, i) + slope));
      EXPECT_EQ(C(sent, tensor.name, i), after - before);
      EXPECT_EQ(sent.tensor(*sent.layout().Find(tensor.name))[i],
                trained.adapter.tensor(tensor)[i] - start.tensor(tensor)[i]);
    }
  }
}

TEST_F(ScaffoldTest, Begin_RefusesAPlanWithoutControlsInTheState) {
  Broadcast(job_.layout);
  ExpectRefused("no tensor of role control.*");
}

TEST_F(ScaffoldTest, End_RefusesToSendControlsWithoutThem) {
  plan_.set_control_variates(false);
  LocalUpdate local = Begin();
  const TrainResult trained = TrainFrom(local.Member("c", nullptr), 5, {"lora_b"});
  EXPECT_THAT(std::string(std::move(local).End("c", 10, trained).status().message()),
              HasSubstr("control.* with control variates only"));
}

TEST_F(LocalUpdateTest, End_APrunedRankHoldsFromTheNextRoundOn) {
  plan_.mutable_rank_pruning()->set_gamma(0.67);
  LocalUpdate local = Begin();
  TrainResult trained = TrainFrom(local.Member("c", nullptr), 5, {});
  trained.adapter.tensor(*job_.layout->Find("m.lora_A.weight"))[8] *= 0.5f;  // of the third component
  const auto result = std::move(local).End("c", 10, trained);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->update.rank(), 0);
  EXPECT_EQ(result->next.rank, 2);
  Commit(*result);
  EXPECT_EQ(Begin().rank(), 2);
  plan_.set_rank(1);
  EXPECT_EQ(Begin().rank(), 1);
  plan_.set_rank(3);
  EXPECT_EQ(Begin().rank(), 2);
  plan_.clear_rank_pruning();
  EXPECT_EQ(Begin().rank(), 0);  // no rule of this job prunes
}

TEST_F(LocalUpdateTest, End_OnlyTheStrongestComponentsTravel) {
  Send({"lora_b", "head"});
  plan_.set_keep_components(2);
  const LocalResult result = Round();
  EXPECT_EQ(CountComponents(result.components), 2);
  const Adapter delta = Delta();
  EXPECT_EQ(result.components, ComponentBits(*StrongestComponents(delta, *start_, 2)));
  EXPECT_EQ(result.tensors.layout(), **PackedLayout(delta.layout(), result.components));
  EXPECT_EQ(result.tensors.Decode().ContentHash(),
            Pack(delta, result.components, result.tensors.layout_ptr()).ContentHash());
  plan_.set_keep_components(6);  // all there are
  EXPECT_EQ(Round().components, "");
}

TEST_F(LocalUpdateTest, End_ClipsTheWholeDelta) {
  const double norm = Round().tensors.norm();
  plan_.set_clip_update_norm(norm / 4);
  const LocalResult clipped = Round();
  EXPECT_LE(clipped.tensors.norm(), norm / 4);
  EXPECT_NEAR(clipped.tensors.Decode().values()[3] / Delta().values()[3], 0.25, 1e-5);
  plan_.set_clip_update_norm(norm * 4);
  EXPECT_EQ(Round().tensors.Decode().ContentHash(), Delta().ContentHash());
}

TEST_F(LocalUpdateTest, End_ValuesThatTheEncodingCannotHoldAreRefused) {
  plan_.mutable_encoding()->set_values("int8");
  LocalUpdate local = Begin();
  TrainResult trained = TrainFrom(local.Member("c", nullptr), 5, {"head"});
  trained.adapter.values()[0] = std::nanf("");
  EXPECT_EQ(std::move(local).End("c", 10, trained).status().code(), absl::StatusCode::kInvalidArgument);
}

class ErrorFeedbackTest : public LocalUpdateTest, public testing::WithParamInterface<const char*> {
 protected:
  ErrorFeedbackTest() {
    plan_.mutable_encoding()->set_values(GetParam());
    plan_.mutable_encoding()->set_density(0.2);
    plan_.mutable_encoding()->set_error_feedback(true);
  }
  // |sum of what was sent - sum of the deltas| over |sum of the deltas|, after some rounds.
  double Gap(int rounds) {
    Adapter sent(job_.layout), made(job_.layout);
    for (int round = 1; round <= rounds; ++round) {
      plan_.set_round(round);
      const LocalResult result = Round(/*seed=*/5);
      const Adapter values = result.tensors.Decode(), delta = Delta();
      for (size_t i = 0; i < sent.values().size(); ++i) {
        sent.values()[i] += values.values()[i];
        made.values()[i] += delta.values()[i];
      }
      Commit(result);
    }
    Adapter gap = made.Clone();
    for (size_t i = 0; i < gap.values().size(); ++i) gap.values()[i] -= sent.values()[i];
    return EncodedUpdate::View(gap).norm() / EncodedUpdate::View(made).norm();
  }
};

// What is missing in the end is the last error: it does not add up over rounds of equal deltas. Without feedback it
// does.
TEST_P(ErrorFeedbackTest, End_WhatWasDroppedComesLater) {
  const double with = Gap(32);
  kept_ = nullptr;
  plan_.mutable_encoding()->set_error_feedback(false);
  const double without = Gap(32);
  EXPECT_EQ(kept_->error, nullptr);
  EXPECT_LT(with, without / 4);
}

TEST_P(ErrorFeedbackTest, End_KeepsTheErrorOfTheEncodingAlone) {
  plan_.set_clip_update_norm(0.01);
  const LocalResult result = Round();
  ASSERT_NE(result.next.error, nullptr);
  EXPECT_LE(result.tensors.norm(), 0.01);
  // The clipped part is not carried on: the error is below the bound, the delta far above.
  EXPECT_GT(EncodedUpdate::View(Delta()).norm(), 0.05);
  EXPECT_LT(EncodedUpdate::View(*result.next.error).norm(), 0.011);
}

TEST_P(ErrorFeedbackTest, End_RolesAndComponentsThatDoNotTravelKeepTheirError) {
  Commit(Round());
  const auto before = kept_->error;
  Send({"lora_b"});
  plan_.set_keep_components(2);
  const LocalResult result = Round(/*seed=*/6);
  const Adapter& after = *result.next.error;
  EXPECT_EQ(after.layout(), before->layout());
  for (const TensorSpec& tensor : before->layout().tensors()) {
    if (tensor.role == "lora_b") continue;
    EXPECT_TRUE(std::ranges::equal(before->tensor(tensor), after.tensor(tensor))) << tensor.name;
  }
  const auto kept = *StrongestComponents(Delta(), *start_, 2);
  int changed = 0;
  for (size_t component = 0; component < kept.size(); ++component) {
    const TensorSpec& tensor = *before->layout().Find(component < 3 ? "m.lora_B.weight" : "n.lora_B.weight");
    bool same = true;
    for (int64_t row = 0; row < tensor.shape[0]; ++row) {
      const auto i = static_cast<size_t>(row * 3) + component % 3;
      same = same && before->tensor(tensor)[i] == after.tensor(tensor)[i];
    }
    EXPECT_TRUE(same || kept[component]) << component;
    changed += same ? 0 : 1;
  }
  EXPECT_GT(changed, 0);
}

TEST_P(ErrorFeedbackTest, End_ErrorOfComponentsOfAnotherStartIsDropped) {
  Commit(Round());
  plan_.mutable_reinitialise()->add_roles("lora_a");
  const LocalResult result = Round();
  // As if there had been no error but the head's.
  KeptState head;
  const auto head_layout = *Layout::Create({{"h", "head", {2}}});
  head.error = std::make_shared<const Adapter>(Cut(*kept_->error, head_layout));
  kept_ = std::make_shared<const KeptState>(head);
  const LocalResult expected = Round();
  EXPECT_EQ(result.tensors.Decode().ContentHash(), expected.tensors.Decode().ContentHash());
}

INSTANTIATE_TEST_SUITE_P(Encodings, ErrorFeedbackTest, testing::Values("bf16", "int8", "int4", "topk"));

}  // namespace
}  // namespace weft
