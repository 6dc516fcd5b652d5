#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "aggregators/core/conformance.h"
#include "aggregators/core/state.h"
#include "aggregators/core/testing/rule_bench.h"
#include "aggregators/core/testing/values.h"

namespace weft::aggregators::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ScaffoldTest : public ::testing::Test {
 protected:
  explicit ScaffoldTest() { Configure(R"({"clients": 4, "server_rate": 0.5})"); }

  void Configure(const std::string& config) {
    bench_.Configure(config);
    bench_.job().mutable_training()->set_optimizer("sgd");
    bench_.start() = *bench_.rule().InitialState(bench_.job(), Adapter(bench_.layout()));
  }
  Client Send(const std::string& id, float scale, float control) const {
    return {id, 7,
            With(bench_.SentOf(), {{"m.ssf_scale", {scale, scale, scale}}, {"control.m.ssf_scale", {control, 0, 0}}})};
  }

  RuleBench bench_{"scaffold", "{}", NoFactors()};
};

TEST_F(ScaffoldTest, Conformance_AllLawsHold) {
  conformance::Subject subject = bench_.Subject();
  subject.other = subject.job;
  subject.other->mutable_aggregator()->mutable_config()->CopyFrom(RuleBench::Parsed(R"({"clients": 5})"));
  conformance::ExpectLawsHold(subject);
}

TEST_F(ScaffoldTest, InitialState_AddsAZeroControlForEveryTrainedTensor) {
  const Adapter state = *bench_.rule().InitialState(bench_.job(), Filled(bench_.layout(), 2));
  const auto& tensors = state.layout().tensors();
  ASSERT_EQ(tensors.size(), 6u);
  EXPECT_EQ(tensors[3].name, "control.m.ssf_scale");
  EXPECT_EQ(tensors[3].role, "control.ssf_scale");
  EXPECT_EQ(tensors[5].role, "control.head");
  EXPECT_THAT(ValuesOf(state, "m.ssf_scale"), ElementsAre(2, 2, 2));
  EXPECT_THAT(ValuesOf(state, "control.m.ssf_scale"), ElementsAre(0, 0, 0));
  EXPECT_TRUE(IsBroadcast("control.head"));
  // What is fixed needs none.
  const Adapter fixed = *bench_.rule().InitialState(bench_.job(), Adapter(FixedFactors()));
  EXPECT_EQ(fixed.layout().tensors().size(), 6u);
  EXPECT_FALSE(HasRole(fixed.layout(), "control.fixed.lora_a"));
}

TEST_F(ScaffoldTest, FillPlan_SendsControlsBesideEveryRole) {
  const proto::Plan plan = bench_.PlanOf();
  EXPECT_TRUE(plan.control_variates());
  EXPECT_THAT(plan.roles_trained(), ElementsAre("ssf_scale", "prompt", "head"));
  EXPECT_THAT(plan.roles_sent(),
              ElementsAre("ssf_scale", "prompt", "head", "control.ssf_scale", "control.prompt", "control.head"));
  EXPECT_EQ(plan.max_examples(), 1u);
}

// x: 1 + 0.5 * (2 + 4) / 2 = 2.5; c: 10 + 2 / 4 * (8 + 4) / 2 = 13.
TEST_F(ScaffoldTest, Finish_StepsAndMovesTheControlByTheShareOfClients) {
  bench_.start() = With(bench_.start().layout_ptr(), {{"m.ssf_scale", {1, 1, 1}}, {"control.m.ssf_scale", {10, 0, 0}}});
  const auto next = bench_.Round({Send("a", 2, 8), Send("b", 4, 4)});
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_THAT(ValuesOf(*next, "m.ssf_scale"), ElementsAre(2.5, 2.5, 2.5));
  EXPECT_THAT(ValuesOf(*next, "control.m.ssf_scale"), ElementsAre(13, 0, 0));
}

TEST_F(ScaffoldTest, Finish_MoreUpdatesThanClientsCountAsAllClients) {
  Configure(R"({"clients": 1})");
  const auto next = bench_.Round({Send("a", 2, 8), Send("b", 4, 4)});
  EXPECT_THAT(ValuesOf(*next, "m.ssf_scale"), ElementsAre(3, 3, 3));
  EXPECT_THAT(ValuesOf(*next, "control.m.ssf_scale"), ElementsAre(6, 0, 0));
}

// Two clients with losses h_k / 2 (y - a_k)^2 of unequal curvature: several local steps make FedAvg settle away from
// the optimum of the sum (client drift), SCAFFOLD does not. The client's half is written out here; the server's is the
// rule.
class DriftTest : public ScaffoldTest {
 protected:
  // Distance to the optimum after 300 rounds.
  double Distance(bool corrected) {
    const double h[] = {1, 10}, a[] = {4, -1}, rate = 0.05;
    const int steps = 5;
    float own[] = {0, 0};
    Configure(R"({"clients": 2})");
    for (int round = 1; round <= 300; ++round) {
      const float x = ValuesOf(bench_.start(), "m.ssf_scale")[0],
                  c = ValuesOf(bench_.start(), "control.m.ssf_scale")[0];
      std::vector<Client> clients;
      for (int k = 0; k < 2; ++k) {
        double y = x;
        for (int step = 0; step < steps; ++step) y -= rate * (h[k] * (y - a[k]) + (corrected ? c - own[k] : 0));
        const auto change = static_cast<float>(-c + (x - y) / (steps * rate));
        clients.push_back(Send(k == 0 ? "a" : "b", static_cast<float>(y - x), corrected ? change : 0));
        if (corrected) own[k] += change;
      }
      bench_.start() = *bench_.Round(clients, round);
    }
    const double optimum = (h[0] * a[0] + h[1] * a[1]) / (h[0] + h[1]);
    return std::abs(ValuesOf(bench_.start(), "m.ssf_scale")[0] - optimum);
  }
};

TEST_F(DriftTest, Finish_RemovesClientDrift) {
  EXPECT_LT(Distance(/*corrected=*/true), 1e-5);  // measured 5e-8
  EXPECT_GT(Distance(/*corrected=*/false), 0.1);  // measured 0.49
}

TEST_F(ScaffoldTest, CheckJob_RefusesWhatIsNotPlainSgd) {
  EXPECT_EQ(bench_.CheckJob(), absl::OkStatus());
  proto::TrainingConfig& training = *bench_.job().mutable_training();
  training.set_optimizer("adamw");
  EXPECT_EQ(bench_.CheckJob().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(bench_.CheckJob().message(), HasSubstr("training.optimizer: found adamw under scaffold"));
  EXPECT_THAT(bench_.CheckJob().message(), HasSubstr("set optimizer sgd, momentum 0 and clip_grad_norm 0, or use"));
  training.set_optimizer("sgd");
  training.set_momentum(0.9);
  EXPECT_THAT(bench_.CheckJob().message(), HasSubstr("training.momentum: found 0.9"));
  training.set_momentum(0);
  training.set_clip_grad_norm(1);
  EXPECT_THAT(bench_.CheckJob().message(), HasSubstr("training.clip_grad_norm: found 1"));
}

TEST_F(ScaffoldTest, CheckJob_RefusesBadConfig) {
  Configure(R"({"clients": 4})");
  bench_.job().mutable_selection()->set_clients(5);
  EXPECT_THAT(bench_.CheckJob().message(), HasSubstr("expected at least selection.clients = 5"));
  bench_.job().mutable_selection()->set_clients(4);
  EXPECT_EQ(bench_.CheckJob(), absl::OkStatus());
  for (const auto& [config, part] :
       {std::pair{"{}", "aggregator.config.clients"}, std::pair{R"({"clients": 0})", "aggregator.config.clients"},
        std::pair{R"({"clients": 1, "server_rate": 0})", "aggregator.config.server_rate"},
        std::pair{R"({"clients": 1, "weights": {}})", "weights"}}) {
    bench_.Configure(config);
    EXPECT_EQ(bench_.CheckJob().code(), absl::StatusCode::kInvalidArgument) << config;
    EXPECT_THAT(bench_.CheckJob().message(), HasSubstr(part));
  }
}

TEST_F(ScaffoldTest, Facts_KeepsClientStateAndNotUnderCentralDp) {
  const Facts facts = bench_.rule().facts();
  EXPECT_TRUE(facts.linear && facts.works_under_secure_aggregation && facts.keeps_client_state &&
              facts.finishes_from_mean);
  EXPECT_FALSE(facts.works_under_central_dp || facts.needs_single_updates || facts.returns_single_update);
}

}  // namespace
}  // namespace weft::aggregators::testing
