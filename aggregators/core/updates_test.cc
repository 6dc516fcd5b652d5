// What rules of both kinds refuse before they look at an update, and how those that keep updates keep them.
#include "aggregators/core/updates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/factors.h"
#include "aggregators/core/kept.h"
#include "aggregators/core/linear.h"
#include "aggregators/core/state.h"

namespace weft::aggregators {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Tells in which order, of which rank and weight it was given the updates.
class Telling : public KeptAggregator {
 public:
  using KeptAggregator::KeptAggregator;
  std::vector<std::string> told;

 private:
  absl::StatusOr<Adapter> Combine(std::span<const KeptUpdate* const> updates) override {
    for (const KeptUpdate* update : updates) {
      told.push_back(update->client_id + ":" + std::to_string(update->weight) + ":" + std::to_string(update->rank));
    }
    return state().Clone();
  }
};

class UpdatesTest : public ::testing::Test {
 protected:
  UpdatesTest() : state_(SmallState()) {}

  static Adapter SmallState() {
    Adapter adapter(*Layout::Create({{.name = "m.lora_A.weight", .role = "lora_a", .shape = {2, 3}},
                                     {.name = "m.lora_B.weight", .role = "lora_b", .shape = {4, 2}},
                                     {.name = "head.bias", .role = "head", .shape = {3}}}));
    return *Extend(adapter, Companions(adapter.layout(), kServerPrefix));
  }
  UpdateTerms Terms(bool mixed_ranks = false, const std::string& weights = "examples") const {
    UpdateTerms::Options options{.rule = "rule", .mixed_ranks = mixed_ranks};
    options.weights.set_by(weights);
    options.weights.set_max_examples(100);
    options.roles_trained = options.roles_sent = AdapterRoles(state_.layout());
    return *UpdateTerms::Create({.global = &state_}, options);
  }
  Adapter Delta(int64_t rank = 0) const { return Adapter(Terms(true).LayoutOf(rank)); }

  const Adapter state_;
};

TEST_F(UpdatesTest, State_RolesAndCompanions) {
  EXPECT_THAT(AdapterRoles(state_.layout()), ElementsAre("lora_a", "lora_b", "head"));
  EXPECT_TRUE(HasRole(state_.layout(), "server.head"));
  EXPECT_FALSE(IsBroadcast("server.head"));
  EXPECT_TRUE(IsBroadcast("control.head"));
  EXPECT_FALSE(IsAdapterRole("control.head") || IsAdapterRole("base_a") || IsAdapterRole("base_b"));
  EXPECT_NE(state_.layout().Find("server.head.bias"), nullptr);
}

TEST_F(UpdatesTest, Plus_AddsWhereNamesAgree) {
  Adapter delta(*SentLayout(state_.layout(), {"head"}, 0));
  for (float& x : delta.values()) x = 2;
  const Adapter next = Plus(state_, delta);
  for (const TensorSpec& tensor : next.layout().tensors()) {
    for (const float x : next.tensor(tensor)) EXPECT_EQ(x, tensor.role == "head" ? 2 : 0) << tensor.name;
  }
}

TEST_F(UpdatesTest, Check_ExamplesOutOfRangeAreRefused) {
  const Adapter delta = Delta();
  for (const uint64_t examples : {uint64_t{0}, (uint64_t{1} << 32) + 1}) {
    const absl::Status status = Terms().Check({"a", examples, EncodedUpdate::View(delta)});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("examples: found"));
  }
}

TEST_F(UpdatesTest, Check_RanksAreTakenOnlyWhereTheRuleSaysSo) {
  const Adapter cut = Delta(1), whole = Delta();
  EXPECT_EQ(Terms(true).Check({"a", 5, EncodedUpdate::View(cut), 1}), absl::OkStatus());
  EXPECT_EQ(Terms(true).Check({"a", 5, EncodedUpdate::View(whole), 2}), absl::OkStatus());
  EXPECT_THAT(Terms(true).Check({"a", 5, EncodedUpdate::View(cut), 2}).message(), HasSubstr("layout"));
  EXPECT_THAT(Terms(true).Check({"a", 5, EncodedUpdate::View(cut), 3}).message(), HasSubstr("expected 1 to 2"));
  EXPECT_THAT(Terms(false).Check({"a", 5, EncodedUpdate::View(cut), 1}).message(), HasSubstr("whole factors only"));
}

TEST_F(UpdatesTest, Weight_IsBoundedOrUniform) {
  const Adapter delta = Delta();
  EXPECT_EQ(Terms().Weight({"a", 7, EncodedUpdate::View(delta)}), 7u);
  EXPECT_EQ(Terms().Weight({"a", 1000, EncodedUpdate::View(delta)}), 100u);
  EXPECT_EQ(Terms(false, "uniform").Weight({"a", 1000, EncodedUpdate::View(delta)}), 1u);
  proto::Plan plan;
  Terms(false, "uniform").FillPlan(&plan);
  EXPECT_EQ(plan.max_examples(), 1u);
}

TEST_F(UpdatesTest, CheckTotalWeight_CohortThatCannotFit) {
  proto::JobConfig job;
  job.mutable_selection()->set_clients(1'000'000);
  proto::WeightsConfig weights;
  weights.set_by("examples");
  weights.set_max_examples(500'000'000);
  EXPECT_THAT(CheckTotalWeight(job, weights).message(), HasSubstr("expected at most 274877"));
  weights.set_by("uniform");
  EXPECT_EQ(CheckTotalWeight(job, weights), absl::OkStatus());
}

TEST_F(UpdatesTest, Linear_GroupWhoseWeightsDoNotFitTogetherLeavesNoTrace) {
  UpdateTerms::Options options{.rule = "rule"};
  options.weights.set_max_examples(536'870'911);
  options.roles_trained = options.roles_sent = {"head"};
  LinearAggregator rule({.global = &state_}, *UpdateTerms::Create({.global = &state_}, options));
  const Adapter delta(*SentLayout(state_.layout(), {"head"}, 0));
  const EncodedUpdate view = EncodedUpdate::View(delta);
  // 2^38 - 1 holds 512 of the largest weights, and no more.
  const std::vector<ClientUpdate> group(513, {"a", 536'870'911, view});
  EXPECT_THAT(rule.Accumulate(group).message(), HasSubstr("expected a total of at most"));
  EXPECT_EQ(rule.count(), 0);
  EXPECT_EQ(rule.Accumulate(std::span(group).first(512)), absl::OkStatus());
}

TEST_F(UpdatesTest, Kept_InOrderOfClientIdAndOneEach) {
  Telling rule({.global = &state_}, Terms(true));
  const Adapter whole = Delta(), cut = Delta(1);
  ASSERT_EQ(rule.Accumulate({"b", 3, EncodedUpdate::View(whole)}), absl::OkStatus());
  ASSERT_EQ(rule.Accumulate({"a", 1000, EncodedUpdate::View(cut), 1}), absl::OkStatus());
  EXPECT_THAT(rule.Accumulate({"a", 1, EncodedUpdate::View(whole)}).message(), HasSubstr("second update of a"));
  const ClientUpdate twice[] = {{"c", 1, EncodedUpdate::View(whole)}, {"c", 1, EncodedUpdate::View(whole)}};
  EXPECT_THAT(rule.Accumulate(twice).message(), HasSubstr("two updates of c"));
  Telling restored({.global = &state_}, Terms(true));
  ASSERT_EQ(restored.Restore(*rule.Save()), absl::OkStatus());
  EXPECT_THAT(restored.MergeWith(std::move(rule)).message(), HasSubstr("second update of a"));
  ASSERT_TRUE(std::move(restored).Finish().ok());
  // NOLINTNEXTLINE(bugprone-use-after-move): Finish leaves what was told
  EXPECT_THAT(restored.told, ElementsAre("a:100:1", "b:3:0"));
}

}  // namespace
}  // namespace weft::aggregators
