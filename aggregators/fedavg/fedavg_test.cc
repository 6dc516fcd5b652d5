#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "aggregators/core/conformance.h"
#include "aggregators/core/registry.h"

namespace weft::aggregators {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FedAvgTest : public ::testing::Test {
 protected:
  FedAvgTest() : subject_(conformance::SmallSubject(*Registry::Global().Find("fedavg"))), global_(subject_.layout) {}

  static google::protobuf::Map<std::string, google::protobuf::Value>& Weights(proto::JobConfig& job) {
    auto& config = *job.mutable_aggregator()->mutable_config()->mutable_fields();
    return *config["weights"].mutable_struct_value()->mutable_fields();
  }
  void SetMaxExamples(double value) { Weights(subject_.job)["max_examples"].set_number_value(value); }
  std::unique_ptr<Aggregator> Start() const {
    return *subject_.rule->Create(subject_.job, {.global = &global_, .round = 1});
  }
  EncodedUpdate Filled(float value) const {
    Adapter delta(subject_.layout);
    for (float& x : delta.values()) x = value;
    return *EncodedUpdate::Encode(delta, {});
  }
  absl::Status CheckJob() const { return subject_.rule->CheckJob(subject_.job, *subject_.layout); }

  conformance::Subject subject_;
  Adapter global_;
};

TEST_F(FedAvgTest, Conformance_AllLawsHold) {
  subject_.other = subject_.job;
  Weights(*subject_.other)["max_examples"].set_number_value(9);
  conformance::ExpectLawsHold(subject_);
}

TEST_F(FedAvgTest, Conformance_AllLawsHoldWhenAllWeighAlike) {
  Weights(subject_.job)["by"].set_string_value("uniform");
  conformance::ExpectLawsHold(subject_);
}

TEST_F(FedAvgTest, Finish_WeighsByExamples) {
  const auto aggregator = Start();
  ASSERT_EQ(aggregator->Accumulate({"a", 3, Filled(1)}), absl::OkStatus());
  ASSERT_EQ(aggregator->Accumulate({"b", 1, Filled(5)}), absl::OkStatus());
  EXPECT_EQ(aggregator->count(), 2);
  const auto mean = std::move(*aggregator).Finish();
  ASSERT_TRUE(mean.ok()) << mean.status();
  EXPECT_TRUE(mean->layout() == *subject_.layout);
  for (const float x : mean->values()) EXPECT_EQ(x, 2);
}

TEST_F(FedAvgTest, Finish_KeepsWhatAFloatSumLoses) {
  const auto aggregator = Start();
  ASSERT_EQ(aggregator->Accumulate({"a", 1, Filled(6e4f)}), absl::OkStatus());
  ASSERT_EQ(aggregator->Accumulate({"b", 1, Filled(1e-7f)}), absl::OkStatus());
  ASSERT_EQ(aggregator->Accumulate({"c", 1, Filled(-6e4f)}), absl::OkStatus());
  EXPECT_EQ(std::move(*aggregator).Finish()->values()[0], 1e-7f / 3);
}

TEST_F(FedAvgTest, Accumulate_WeightIsCutToTheBound) {
  SetMaxExamples(1);
  const auto aggregator = Start();
  ASSERT_EQ(aggregator->Accumulate({"a", 1'000'000, Filled(1)}), absl::OkStatus());
  ASSERT_EQ(aggregator->Accumulate({"b", 1, Filled(2)}), absl::OkStatus());
  EXPECT_EQ(std::move(*aggregator).Finish()->values()[0], 1.5f);
}

TEST_F(FedAvgTest, Validate_ExamplesOutOfRangeAreRefused) {
  const auto aggregator = Start();
  const EncodedUpdate adapter = Filled(1);
  constexpr uint64_t kLargest = uint64_t{1} << 32;
  EXPECT_EQ(aggregator->Validate({"a", kLargest, adapter}), absl::OkStatus());
  for (const uint64_t examples : {uint64_t{0}, kLargest + 1, std::numeric_limits<uint64_t>::max()}) {
    const absl::Status status = aggregator->Validate({"a", examples, adapter});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << examples;
    EXPECT_THAT(status.message(), HasSubstr("expected 1 to 4294967296"));
  }
}

TEST_F(FedAvgTest, MergeWith_ItselfIsRefused) {
  const auto aggregator = Start();
  ASSERT_EQ(aggregator->Accumulate({"a", 1, Filled(1)}), absl::OkStatus());
  EXPECT_THAT(aggregator->MergeWith(std::move(*aggregator)).message(), HasSubstr("the sum itself"));
  EXPECT_EQ(aggregator->count(), 1);
}

TEST_F(FedAvgTest, FillPlan_AllRolesOnceInLayoutOrder) {
  subject_.layout = *Layout::Create({{.name = "b0", .role = "lora_b", .shape = {1}},
                                     {.name = "a0", .role = "lora_a", .shape = {1}},
                                     {.name = "b1", .role = "lora_b", .shape = {1}},
                                     {.name = "head", .role = "head", .shape = {1}}});
  global_ = Adapter(subject_.layout);
  proto::Plan plan;
  Start()->FillPlan(&plan);
  EXPECT_THAT(plan.roles_trained(), ElementsAre("lora_b", "lora_a", "head"));
  EXPECT_THAT(plan.roles_sent(), ElementsAre("lora_b", "lora_a", "head"));
  EXPECT_EQ(plan.max_examples(), 10'000'000u);
}

TEST_F(FedAvgTest, CheckJob_BadConfigIsRefusedByPath) {
  EXPECT_EQ(CheckJob(), absl::OkStatus());
  for (const double bad : {0.0, -1.0, 536870912.0, 1.5}) {
    SetMaxExamples(bad);
    EXPECT_EQ(CheckJob().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(CheckJob().message(), HasSubstr("aggregator.config.weights.max_examples")) << bad;
  }
  subject_.job.mutable_aggregator()->clear_config();
  (*subject_.job.mutable_aggregator()->mutable_config()->mutable_fields())["momentum"].set_number_value(1);
  EXPECT_THAT(CheckJob().message(), HasSubstr("momentum"));
}

TEST_F(FedAvgTest, CheckJob_WeightsThatCannotFitAreRefusedWithTheNearestPossible) {
  subject_.job.mutable_selection()->set_rule("uniform");
  subject_.job.mutable_selection()->set_clients(1'000'000);
  EXPECT_THAT(CheckJob().message(), HasSubstr("expected at most 274877"));
  SetMaxExamples(274877);
  EXPECT_EQ(CheckJob(), absl::OkStatus());
}

TEST_F(FedAvgTest, Facts_LinearAndOwnUpdateBack) {
  const Facts facts = subject_.rule->facts();
  EXPECT_TRUE(facts.linear && facts.works_under_secure_aggregation && facts.works_under_central_dp);
  EXPECT_TRUE(facts.returns_single_update);
  EXPECT_FALSE(facts.needs_single_updates || facts.changes_base);
}

}  // namespace
}  // namespace weft::aggregators
