#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "aggregators/core/conformance.h"
#include "aggregators/core/registry.h"
#include "aggregators/core/state.h"
#include "aggregators/core/testing/rule_bench.h"
#include "aggregators/core/testing/values.h"

namespace weft::aggregators::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A bench whose start is the rule's initial state of zeros.
std::unique_ptr<RuleBench> Started(const std::string& config, std::shared_ptr<const Layout> layout = OneModule()) {
  auto bench = std::make_unique<RuleBench>("fedopt", config, std::move(layout));
  EXPECT_EQ(bench->CheckJob(), absl::OkStatus());
  bench->start() = *bench->rule().InitialState(bench->job(), Adapter(bench->layout()));
  return bench;
}

// One client sends `delta` for every element; the head after the round.
float HeadAfter(RuleBench& bench, float delta, int64_t round = 1) {
  bench.start() = *bench.Round({{"a", 1, Filled(bench.SentOf(0, round), delta)}}, round);
  return ValuesOf(bench.start(), "head.bias")[0];
}

std::string Even(const char* optimizer) {
  return absl::StrCat(R"({"optimizer": ")", optimizer,
                      R"(", "learning_rate": 2, "beta1": 0.5, "beta2": 0.5, "tau": 1})");
}

TEST(FedOptTest, Conformance_AllLawsHoldForEveryOptimizer) {
  for (const char* optimizer : {"adam", "yogi", "adagrad", "momentum"}) {
    const RuleBench bench("fedopt", Even(optimizer));
    conformance::Subject subject = bench.Subject();
    subject.other = subject.job;
    subject.other->mutable_aggregator()->mutable_config()->CopyFrom(
        RuleBench::Parsed(absl::StrCat(R"({"optimizer": ")", optimizer, R"("})")));
    conformance::ExpectLawsHold(subject);
  }
}

TEST(FedOptTest, Conformance_ForeignIsAlsoAnotherRuleInside) {
  for (const char* config :
       {R"({"rule": {"name": "rolora"}})", R"({"rule": {"config": {"weights": {"by": "uniform"}}}})"}) {
    const RuleBench bench("fedopt"), other("fedopt", config);
    conformance::Subject subject = bench.Subject();
    subject.other = other.Subject().job;
    conformance::ExpectLawsHold(subject);
    conformance::ExpectLawsHold(other.Subject());
  }
}

// beta1 = beta2 = 1/2, tau = v_0 = 1, eta = 2. D = 2: m = 1. Then D = 0: m = 1/2.
TEST(FedOptTest, Finish_Adam) {
  const auto bench = Started(Even("adam"));
  double head = 2 * 1 / (std::sqrt(0.5 * 1 + 0.5 * 4) + 1);  // v = 2.5
  EXPECT_FLOAT_EQ(HeadAfter(*bench, 2), static_cast<float>(head));
  head += 2 * 0.5 / (std::sqrt(1.25) + 1);
  EXPECT_FLOAT_EQ(HeadAfter(*bench, 0, 2), static_cast<float>(head));
  EXPECT_THAT(ValuesOf(bench->start(), "server.m.head.bias"), ElementsAre(0.5));
  EXPECT_THAT(ValuesOf(bench->start(), "server.v.head.bias"), ElementsAre(1.25));
}

TEST(FedOptTest, Finish_Yogi) {
  const auto bench = Started(Even("yogi"));
  // v = 1 - 1/2 * 4 * sign(1 - 4) = 3.
  EXPECT_FLOAT_EQ(HeadAfter(*bench, 2), static_cast<float>(2 / (std::sqrt(3.0) + 1)));
  HeadAfter(*bench, 1, 2);  // v = 3 - 1/2 * 1 * sign(3 - 1) = 2.5; m = 1/2 + 1/2
  EXPECT_THAT(ValuesOf(bench->start(), "server.v.head.bias"), ElementsAre(2.5));
  EXPECT_THAT(ValuesOf(bench->start(), "server.m.head.bias"), ElementsAre(1));
}

TEST(FedOptTest, Finish_YogiLeavesVWhereItEqualsTheSquare) {
  const auto bench = Started(Even("yogi"));
  HeadAfter(*bench, 1);  // v = 1 = D^2
  EXPECT_THAT(ValuesOf(bench->start(), "server.v.head.bias"), ElementsAre(1));
}

TEST(FedOptTest, Finish_Adagrad) {
  const auto bench = Started(Even("adagrad"));
  double head = 2 / (std::sqrt(5.0) + 1);  // v = 1 + 4
  EXPECT_FLOAT_EQ(HeadAfter(*bench, 2), static_cast<float>(head));
  head += 2 * 1.5 / (std::sqrt(9.0) + 1);  // v = 5 + 4, m = 1/2 + 1
  EXPECT_FLOAT_EQ(HeadAfter(*bench, 2, 2), static_cast<float>(head));
}

TEST(FedOptTest, Finish_Momentum) {
  const auto bench = Started(Even("momentum"));
  EXPECT_EQ(HeadAfter(*bench, 2), 4);     // m = 2
  EXPECT_EQ(HeadAfter(*bench, 1, 2), 8);  // m = 1 + 1
  EXPECT_FALSE(HasRole(bench->start().layout(), "server.v.head"));
}

TEST(FedOptTest, Finish_MomentumOfNoMemoryAtRateOneIsTheRuleInside) {
  const auto bench = Started(R"({"optimizer": "momentum", "learning_rate": 1, "beta1": 0})");
  const RuleBench fedavg("fedavg", "{}", OneModule());
  std::vector<Client> clients = {fedavg.Draw(1, 3), fedavg.Draw(2, 8), fedavg.Draw(3, 1)};
  const Adapter next = *bench->Round(clients);
  RuleBench alone("fedavg", "{}", OneModule());
  alone.start() = Adapter(alone.layout());
  const Adapter expected = *alone.Round(clients);
  for (const TensorSpec& tensor : expected.layout().tensors()) {
    EXPECT_EQ(ValuesOf(next, tensor.name), ValuesOf(expected, tensor.name));
  }
}

// As the paper has it, no correction of bias: the first Adam step is eta (1 - b1) D / (sqrt(b2 tau^2 + (1 - b2) D^2) +
// tau).
TEST(FedOptTest, Finish_DefaultsAreThePapers) {
  const auto bench = Started("{}");
  const double tau = 1e-3, d = 0.5;
  const double step = 0.01 * (0.1 * d) / (std::sqrt(0.99 * tau * tau + 0.01 * d * d) + tau);
  EXPECT_NEAR(HeadAfter(*bench, 0.5f), step, 1e-6 * step);                  // measured 2e-8 of it
  EXPECT_GT(std::abs(HeadAfter(*Started("{}"), 0.505f) / step - 1), 1e-6);  // a perturbed delta
}

TEST(FedOptTest, Accumulate_WeighsAsTheRuleInside) {
  const auto bench = Started(R"({"optimizer": "momentum", "learning_rate": 1, "beta1": 0,
                                 "rule": {"config": {"weights": {"max_examples": 3}}}})");
  const auto uniform = Started(R"({"optimizer": "momentum", "learning_rate": 1, "beta1": 0,
                                   "rule": {"config": {"weights": {"by": "uniform"}}}})");
  const auto head = [](const RuleBench& of) {
    return ValuesOf(*of.Round({{"a", 1, Filled(of.SentOf(), 0)}, {"b", 99, Filled(of.SentOf(), 8)}}), "head.bias")[0];
  };
  EXPECT_EQ(head(*bench), 6);  // 3 / 4 of 8
  EXPECT_EQ(head(*uniform), 4);
  EXPECT_EQ(bench->PlanOf().max_examples(), 3u);
  EXPECT_EQ(uniform->PlanOf().max_examples(), 1u);
}

TEST(FedOptTest, Finish_MomentsOfAFactorThatIsNotSentStay) {
  const auto bench = Started(R"({"rule": {"name": "rolora"}, "tau": 0.5})");
  EXPECT_THAT(bench->PlanOf(1).roles_sent(), ElementsAre("lora_b", "head"));
  EXPECT_THAT(bench->PlanOf(2).roles_sent(), ElementsAre("lora_a", "head"));
  HeadAfter(*bench, 2);
  EXPECT_THAT(ValuesOf(bench->start(), "server.m.m.lora_A.weight"), Each(0));
  EXPECT_THAT(ValuesOf(bench->start(), "server.v.m.lora_A.weight"), Each(0.25));
  EXPECT_THAT(ValuesOf(bench->start(), "m.lora_A.weight"), Each(0));
  const std::vector<float> b = ValuesOf(bench->start(), "server.m.m.lora_B.weight");
  EXPECT_THAT(b, Each(::testing::FloatEq(0.2f)));
  HeadAfter(*bench, 2, 2);
  EXPECT_EQ(ValuesOf(bench->start(), "server.m.m.lora_B.weight"), b);
  EXPECT_THAT(ValuesOf(bench->start(), "server.m.m.lora_A.weight"), Each(::testing::FloatEq(0.2f)));
}

TEST(FedOptTest, FinishFromMean_StepsAsFromUpdates) {
  const auto bench = Started(Even("adam"));
  const Adapter mean = Filled(bench->SentOf(), 2);
  const auto next = std::move(*bench->Fresh()).FinishFromMean(mean, 3);
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(ValuesOf(*next, "head.bias")[0], HeadAfter(*bench, 2));
}

TEST(FedOptTest, InitialState_MomentsStayWithTheServer) {
  const auto bench = Started("{}", FixedFactors());
  for (const char* role : {"server.m.head", "server.v.lora_r"}) {
    EXPECT_TRUE(HasRole(bench->start().layout(), role)) << role;
    EXPECT_FALSE(IsBroadcast(role));
  }
  EXPECT_FALSE(HasRole(bench->start().layout(), "server.m.fixed.lora_a"));
}

// Registered for this test alone.
class DriftingRule : public Rule {
 public:
  std::string_view name() const override { return "drifting"; }
  Facts facts() const override { return {.needs_products = true, .changes_base = true}; }
  absl::Status CheckJob(const proto::JobConfig&, const Layout&) const override { return absl::OkStatus(); }
  int64_t MemoryBytes(const proto::JobConfig&, const Layout&, int64_t) const override { return 0; }
  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig&, const CreateOptions&) const override {
    return absl::UnimplementedError("only to be refused");
  }
};
WEFT_REGISTER_RULE(DriftingRule);

TEST(FedOptTest, CheckJob_RefusesRulesThatCannotBeInside) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"rule": {"name": "drifting"}})", "it changes the base of the clients"},
      {R"({"rule": {"name": "nosuch"}})", "aggregator.config.rule.name"},
      {R"({"rule": {"name": "fedopt"}})", "put fedopt around fedopt"},
      {R"({"rule": {"name": "fedsvd"}})", "it turns the factors every round"},
      {R"({"rule": {"name": "scaffold", "config": {"clients": 3}}})", "its control variates are no steps"}};
  for (const auto& [config, part] : cases) {
    RuleBench bench("fedopt", config);
    bench.job().mutable_training()->set_optimizer("sgd");
    EXPECT_EQ(bench.CheckJob().code(), absl::StatusCode::kInvalidArgument) << config;
    EXPECT_THAT(bench.CheckJob().message(), HasSubstr(part));
  }
}

TEST(FedOptTest, CheckJob_RefusesWhatTheRuleInsideRefusesAndBadConfig) {
  const RuleBench inside("fedopt", R"({"rule": {"name": "ffa_lora"}})", NoFactors());
  EXPECT_THAT(inside.CheckJob().message(), HasSubstr("ffa_lora"));
  const std::pair<const char*, const char*> cases[] = {{R"({"optimizer": "sgd"})", "aggregator.config.optimizer"},
                                                       {R"({"learning_rate": 0})", "aggregator.config.learning_rate"},
                                                       {R"({"beta1": 1})", "aggregator.config.beta1"},
                                                       {R"({"beta2": 1})", "aggregator.config.beta2"},
                                                       {R"({"tau": 0})", "aggregator.config.tau"},
                                                       {R"({"weights": {}})", "weights"}};
  for (const auto& [config, part] : cases) {
    const RuleBench bench("fedopt", config);
    EXPECT_EQ(bench.CheckJob().code(), absl::StatusCode::kInvalidArgument) << config;
    EXPECT_THAT(bench.CheckJob().message(), HasSubstr(part));
  }
}

TEST(FedOptTest, Facts_AWrapperOfAMean) {
  RuleBench bench("fedopt");
  const Facts facts = bench.rule().facts();
  EXPECT_TRUE(facts.linear && facts.works_under_central_dp && facts.finishes_from_mean && facts.wraps_rule);
  EXPECT_FALSE(facts.needs_single_updates || facts.changes_base || facts.returns_single_update);
  const int64_t alone = (*Registry::Global().Find("fedavg"))->MemoryBytes(bench.job(), *bench.layout(), 1);
  EXPECT_GT(bench.rule().MemoryBytes(bench.job(), *bench.layout(), 1), 2 * alone);
}

}  // namespace
}  // namespace weft::aggregators::testing
