#include "server/submit_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/testing/fake_rules.h"
#include "server/testing/small_job.h"

namespace weft::server {
namespace {

using ::testing::HasSubstr;

TEST(SubmitCheckTest, CheckJob_GoodJobIsLaidOut) {
  const auto job = CheckJob(SmallJob(1), SmallCoordinator("/unused"));
  ASSERT_TRUE(job.ok()) << job.status();
  // Two modules of LoRA rank 2 on 8x8 weights, and a head of two labels.
  EXPECT_EQ(job->layout->num_elements(), 2 * (2 * 8 + 8 * 2) + 2 * 8 + 2);
  EXPECT_EQ(job->rule->name(), "fedavg");
}

TEST(SubmitCheckTest, CheckJob_FillsDefaults) {
  proto::JobConfig config = SmallJob(1);
  config.clear_training();
  config.mutable_training()->set_max_length(16);  // the default is more than this base has positions
  config.clear_aggregator();
  const auto job = CheckJob(config, SmallCoordinator("/unused"));
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->config.training().batch_size(), 32);
}

TEST(SubmitCheckTest, CheckJob_WhatCanNotWorkIsRefusedWithTheReason) {
  struct Case {
    void (*spoil)(proto::JobConfig*);
    const char* message;
  };
  using Job = proto::JobConfig;
  const Case cases[] = {
      {[](Job* job) { job->set_name("a b"); }, "name: found"},
      {[](Job* job) { job->clear_name(); }, "name"},
      {[](Job* job) { job->mutable_base()->clear_hash(); }, "base.hash"},
      {[](Job* job) { job->mutable_base()->set_hash(std::string(64, 'X')); }, "64 lower-case hex digits"},
      {[](Job* job) { job->mutable_base()->clear_config_json(); }, "base.config_json is empty"},
      {[](Job* job) { job->mutable_base()->set_config_json("{"); }, ""},
      {[](Job* job) { job->mutable_base()->set_config_json(R"({"model_type": "abacus"})"); }, "abacus"},
      {[](Job* job) { job->mutable_task()->clear_labels(); }, "at least 2"},
      {[](Job* job) { job->mutable_task()->add_labels("yes"); }, "\"yes\" twice"},
      {[](Job* job) { job->mutable_task()->add_labels(""); }, "empty label"},
      {[](Job* job) { job->mutable_task()->set_type("regression"); }, "task.type"},
      {[](Job* job) { job->mutable_task()->mutable_embedding()->set_pooling("last"); },
       "task.embedding has no effect under task.type sequence_classification"},
      {[](Job* job) { job->mutable_task()->mutable_embedding()->set_temperature(1); }, "task.embedding has no effect"},
      {[](Job* job) { job->mutable_task()->set_type("sentence_embedding"); },
       "found 2 labels, but task sentence_embedding of this base has none"},
      {[](Job* job) {
         job->mutable_task()->set_type("causal_lm");
         job->mutable_task()->clear_labels();
       },
       "does no \"causal_lm\"; it does sentence_embedding, sequence_classification"},
      {[](Job* job) { job->mutable_task()->set_type("image_classification"); }, "does no \"image_classification\""},
      {[](Job* job) { job->mutable_training()->set_max_length(33); },
       "found 33, but this base has positions for 32 tokens"},
      {[](Job* job) {
         job->mutable_training()->set_steps(10);
         job->mutable_training()->set_warmup_steps(10);
       },
       "lower warmup_steps to at most 9"},
      {[](Job* job) { job->mutable_training()->set_schedule("step"); }, "training.schedule"},
      {[](Job* job) { job->mutable_training()->set_label_smoothing(1); }, "training.label_smoothing"},
      {[](Job* job) { job->mutable_training()->set_compute("f16"); }, "training.compute"},
      {[](Job* job) { job->mutable_adapter()->set_form("knitting"); }, "knitting"},
      {[](Job* job) { job->mutable_aggregator()->set_name("guess"); }, "guess"},
      {[](Job* job) { job->mutable_selection()->set_rule("lottery"); }, "selection.rule"},
      {[](Job* job) { job->mutable_selection()->set_rule("uniform"); }, "without selection.clients"},
      {[](Job* job) { job->mutable_selection()->set_clients(3); }, "no effect under rule all"},
      {[](Job* job) { job->mutable_selection()->set_over_select(2); }, "over_select has no effect"},
      {[](Job* job) { job->mutable_selection()->set_rule("poisson"); }, "without selection.rate"},
      {[](Job* job) { job->mutable_selection()->set_rate(0.5); }, "selection.rate has no effect"},
      {[](Job* job) {
         job->mutable_selection()->set_rule("uniform");
         job->mutable_selection()->set_clients(3);
         job->mutable_round()->set_min_updates(4);
       },
       "lower min_updates to 3"},
      {[](Job* job) { job->mutable_training()->set_momentum(0.9); }, "use optimizer sgd"},
      {[](Job* job) { job->mutable_training()->set_batch_size(0); }, "training.batch_size"},
      {[](Job* job) {
         job->mutable_evaluation()->set_every(0);
         job->mutable_stop()->set_patience(1);
       },
       "stop.patience needs evaluations"},
      {[](Job* job) {
         job->mutable_evaluation()->set_every(0);
         job->mutable_stop()->set_target_accuracy(0.5);
       },
       "stop.target_accuracy needs evaluations"},
      {[](Job* job) { job->mutable_round()->mutable_progress_timeout()->set_seconds(1); }, "raise it to at least 2s"},
      {[](Job* job) { job->mutable_round()->set_min_updates(0); },
       "only selection.rule poisson draws empty cohorts, not all"},
      {[](Job* job) {
         job->mutable_round()->set_min_updates(0);
         job->mutable_selection()->set_rule("poisson");
         job->mutable_selection()->set_rate(0.5);
       },
       "rule fedavg makes nothing of a round without updates"},
      {[](Job* job) { job->mutable_encoding()->set_values("int3"); }, "encoding.values"},
      {[](Job* job) { job->mutable_encoding()->set_density(0.5); },
       "encoding.density has no effect under encoding.values f32"},
      {[](Job* job) {
         job->mutable_encoding()->set_values("topk");
         job->mutable_encoding()->set_density(0);
       },
       "encoding.density"},
      {[](Job* job) { job->mutable_privacy()->set_secure_aggregation(true); },
       "secure_aggregation is not available yet"},
      {[](Job* job) { job->mutable_privacy()->set_secure_aggregation(true); }, "works today is central differential"},
      {[](Job* job) {
         job->mutable_aggregator()->set_name("fake_private");
         job->set_seed(kSpendsTooMuch);
       },
       "raise the noise multiplier or the budget"},
  };
  for (const Case& c : cases) {
    proto::JobConfig job = SmallJob(1);
    c.spoil(&job);
    const absl::Status status = CheckJob(job, SmallCoordinator("/unused")).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(status.message(), HasSubstr(c.message));
  }
}

TEST(SubmitCheckTest, CheckJob_TasksWithoutLabels) {
  proto::JobConfig config = SmallJob(1);
  config.mutable_task()->set_type("sentence_embedding");
  config.mutable_task()->clear_labels();
  config.mutable_task()->mutable_embedding()->set_pooling("first");
  config.mutable_adapter()->set_head(false);
  const auto job = CheckJob(config, SmallCoordinator("/unused"));
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->layout->num_elements(), 2 * (2 * 8 + 8 * 2));
}

TEST(SubmitCheckTest, CheckJob_WarmUpWithinTheStepsOrOverPasses) {
  proto::JobConfig config = SmallJob(1);
  config.mutable_training()->set_warmup_steps(9);
  EXPECT_TRUE(CheckJob(config, SmallCoordinator("/unused")).ok()) << "steps depend on the client's rows";
  config.mutable_training()->set_steps(10);
  EXPECT_TRUE(CheckJob(config, SmallCoordinator("/unused")).ok());
}

TEST(SubmitCheckTest, CheckJob_AdapterOverTheLimitsIsRefused) {
  proto::CoordinatorConfig coordinator = SmallCoordinator("/unused");
  coordinator.set_max_adapter_bytes(100);
  EXPECT_THAT(CheckJob(SmallJob(1), coordinator).status().message(), HasSubstr("max_adapter_bytes of 100"));
  coordinator = SmallCoordinator("/unused");
  coordinator.set_upload_memory_bytes(100);
  EXPECT_THAT(CheckJob(SmallJob(1), coordinator).status().message(), HasSubstr("upload_memory_bytes of 100"));
}

TEST(SubmitCheckTest, CheckJob_AnEncodedUpdateMayBeLargerThanTheAdapter) {
  proto::JobConfig job = SmallJob(1);
  job.mutable_encoding()->set_values("topk");
  job.mutable_encoding()->set_density(1);
  proto::CoordinatorConfig coordinator = SmallCoordinator("/unused");
  coordinator.set_upload_memory_bytes((*CheckJob(job, coordinator)).layout->size_bytes());
  EXPECT_THAT(CheckJob(job, coordinator).status().message(), HasSubstr("an update of the whole adapter has"));
  job.mutable_encoding()->set_density(0.1);
  EXPECT_TRUE(CheckJob(job, coordinator).ok());
}

TEST(SubmitCheckTest, CheckJob_RoundsWithinThePrivacyBudget) {
  proto::JobConfig job = SmallJob(100);
  EXPECT_FALSE(CheckJob(job, SmallCoordinator("/unused"))->privacy.has_value());
  job.mutable_aggregator()->set_name("fake_private");
  const auto checked = CheckJob(job, SmallCoordinator("/unused"));
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->privacy->rounds, 2);
  EXPECT_EQ(checked->privacy->one_round.epsilon, 1);
  job.mutable_stop()->set_rounds(1);
  EXPECT_EQ(CheckJob(job, SmallCoordinator("/unused"))->privacy->rounds, 1);
}

TEST(SubmitCheckTest, CheckMemory_WhatTheRuleMayHold) {
  proto::JobConfig job = SmallJob(1);
  job.mutable_aggregator()->set_name("fake_ranks");
  proto::CoordinatorConfig coordinator = SmallCoordinator("/unused");
  const CheckedJob checked = *CheckJob(job, coordinator);
  coordinator.set_aggregation_memory_bytes(5 * kFakeBytesPerUpdate);
  EXPECT_EQ(CheckMemory(checked, *checked.layout, 5, coordinator), absl::OkStatus());
  const absl::Status status = CheckMemory(checked, *checked.layout, 6, coordinator);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("6291456 bytes in a round of 6 updates"));
}

TEST(SubmitCheckTest, CheckName_Table) {
  EXPECT_TRUE(CheckName("a-b_c.D9", "x").ok());
  EXPECT_FALSE(CheckName("", "x").ok());
  EXPECT_FALSE(CheckName("a/b", "x").ok());
  EXPECT_FALSE(CheckName("a\xc3\xa9", "x").ok());
  EXPECT_FALSE(CheckName(std::string(129, 'a'), "x").ok());
}

}  // namespace
}  // namespace weft::server
