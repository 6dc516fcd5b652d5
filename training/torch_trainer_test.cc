#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "training/testing/trainer_fixture.h"

namespace weft {
namespace {

using TorchTrainerTest = TrainerFixture;

TEST_F(TorchTrainerTest, Train_LearnsAndReports) {
  const Adapter start = Start();
  const auto shard = Shard(Rows(60));
  const auto result = TrainOne(Plan(80), start, *shard);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->metrics.steps(), 80);
  EXPECT_GT(result->metrics.tokens(), 0);
  EXPECT_GT(result->metrics.seconds(), 0);
  EXPECT_LT(result->metrics.final_loss(), 0.5 * result->metrics.loss());
  const auto held_out = Shard(Rows(30, 100));
  EXPECT_LT(EvaluateOne(start, *held_out).correct(), 20u);
  const proto::Evaluation after = EvaluateOne(result->adapter, *held_out);
  EXPECT_EQ(after.job_id(), "j");
  EXPECT_EQ(after.round(), 3);
  EXPECT_EQ(after.client_id(), "c");
  EXPECT_EQ(after.examples(), 30u);
  EXPECT_GT(after.correct(), 25u);
}

TEST_F(TorchTrainerTest, Train_SameSeedSameBits) {
  const Adapter start = Start();
  const auto first = TrainOne(Plan(8), start, *shard_), again = TrainOne(Plan(8), start, *shard_);
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_TRUE(SameBits(first->adapter, again->adapter));
  EXPECT_FALSE(SameBits(first->adapter, start));
  const auto other = TrainOne(Plan(8), start, *shard_, /*seed=*/8);
  EXPECT_FALSE(SameBits(first->adapter, other->adapter));
}

TEST_F(TorchTrainerTest, Train_OnlyTrainedRolesChange) {
  const Adapter start = Start();
  proto::Plan plan = Plan(4);
  plan.clear_roles_trained();
  plan.add_roles_trained("lora_b");
  const auto result = TrainOne(plan, start, *shard_);
  ASSERT_TRUE(result.ok()) << result.status();
  for (const TensorSpec& spec : layout_->tensors()) {
    const auto before = start.tensor(spec), after = result->adapter.tensor(spec);
    EXPECT_EQ(std::equal(before.begin(), before.end(), after.begin()), spec.role != "lora_b") << spec.name;
  }
}

// The first step of plain descent is the gradient: it must be the slope of the loss that Evaluate reports.
TEST_F(TorchTrainerTest, Train_StepFollowsTheSlopeOfTheLoss) {
  const auto row = Shard(Rows(1));
  Adapter start = Start();
  for (const TensorSpec& spec : layout_->tensors()) {
    if (spec.role == "lora_b") start.tensor(spec)[0] = 0.1f;
  }
  proto::Plan plan = Plan(1);
  plan.mutable_training()->set_optimizer("sgd");
  plan.mutable_training()->set_learning_rate(1);
  plan.mutable_training()->set_weight_decay(0);
  plan.mutable_training()->set_clip_grad_norm(0);
  const auto result = TrainOne(plan, start, *row);
  ASSERT_TRUE(result.ok()) << result.status();
  for (const TensorSpec& spec : layout_->tensors()) {
    Adapter up = start.Clone(), down = start.Clone();
    const float nudge = 1e-2f;
    up.tensor(spec)[0] += nudge;
    down.tensor(spec)[0] -= nudge;
    const double slope = (EvaluateOne(up, *row).loss_sum() - EvaluateOne(down, *row).loss_sum()) / (2 * nudge);
    const double gradient = start.tensor(spec)[0] - result->adapter.tensor(spec)[0];
    EXPECT_NEAR(gradient, slope, 1e-4 + 0.02 * std::abs(slope)) << spec.name;
  }
}

TEST_F(TorchTrainerTest, Train_ClipBoundsTheStep) {
  proto::Plan plan = Plan(1);
  plan.mutable_training()->set_optimizer("sgd");
  plan.mutable_training()->set_learning_rate(1);
  plan.mutable_training()->set_weight_decay(0);
  plan.mutable_training()->set_clip_grad_norm(1e-2);
  const Adapter start = Start();
  const auto result = TrainOne(plan, start, *shard_);
  ASSERT_TRUE(result.ok()) << result.status();
  double squares = 0;
  for (size_t i = 0; i < start.values().size(); ++i)
    squares += std::pow(result->adapter.values()[i] - start.values()[i], 2);
  EXPECT_NEAR(std::sqrt(squares), 1e-2, 1e-5);
}

TEST_F(TorchTrainerTest, Train_CancelStopsAtOnce) {
  const Adapter start = Start();
  const CohortMember member = {.client_id = "c", .start = &start, .shard = shard_.get(), .seed = 1};
  int calls = 0;
  const auto result = trainer_->Train(Plan(50), {&member, 1}, [&](int64_t, int64_t) { return ++calls < 3; });
  ExpectRefused(result.status(), absl::StatusCode::kCancelled, "after 3 of 50 steps");
  EXPECT_EQ(calls, 3);
}

TEST_F(TorchTrainerTest, Train_DivergenceNamesTheStep) {
  Adapter start = Start();
  start.tensor(*layout_->Find("classifier.bias"))[0] = std::nanf("");
  ExpectRefused(TrainOne(Plan(3), start, *shard_).status(), absl::StatusCode::kOutOfRange,
                "not a finite number at step 1;");
}

TEST_F(TorchTrainerTest, Train_RefusesBadPlans) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  proto::Plan plan = Plan(1);
  plan.set_job_id("other");
  ExpectRefused(TrainStatus(plan), absl::StatusCode::kFailedPrecondition, "job other was not prepared");
  plan = Plan(1);
  plan.add_roles_trained("prompt");
  ExpectRefused(TrainStatus(plan), kInvalid, "names \"prompt\"; the layout's roles are head, lora_a, lora_b");
  plan.clear_roles_trained();
  ExpectRefused(TrainStatus(plan), kInvalid, "roles_trained is empty");
  plan = Plan(1);
  plan.mutable_training()->set_max_length(17);
  ExpectRefused(TrainStatus(plan), kInvalid, "max_length is 17, the base takes rows of 2 to 16 tokens");
  plan = Plan(1);
  plan.mutable_training()->set_batch_size(0);
  ExpectRefused(TrainStatus(plan), kInvalid, "batch_size");
  plan = Plan(1);
  plan.mutable_training()->set_optimizer("lion");
  ExpectRefused(TrainStatus(plan), kInvalid, "optimizer");
}

TEST_F(TorchTrainerTest, Train_RefusesRolesThatTheFormNeverTrains) {
  proto::JobOffer job = Job();
  job.mutable_adapter()->set_form("lora_sb");
  ASSERT_TRUE(trainer_->PrepareJob(job).ok());
  proto::Plan plan = Plan(1);
  plan.clear_roles_trained();
  for (const char* role : {"lora_r", "fixed.lora_a"}) plan.add_roles_trained(role);
  ExpectRefused(TrainStatus(plan), absl::StatusCode::kInvalidArgument,
                "roles_trained names \"fixed.lora_a\", which the form never trains");
}

TEST_F(TorchTrainerTest, Train_RefusesRowsThatDoNotFitNamingThem) {
  const Adapter start = Start();
  ExpectRefused(TrainOne(Plan(1), start, *Shard(TestSplit().Add({1, 77, 2}, 0))).status(),
                absl::StatusCode::kInvalidArgument, "client c: row 0 holds token 77");
  ExpectRefused(TrainOne(Plan(1), start, *Shard(TestSplit())).status(), absl::StatusCode::kInvalidArgument,
                "client c: empty shard");
  const std::string path = folder_ + "/labels";
  ASSERT_TRUE(WriteTestSplit(path, TestSplit().Add({1, 2}, 5)).ok());
  ExpectRefused(TrainOne(Plan(1), start, **DataShard::Open(path, 6)).status(), absl::StatusCode::kInvalidArgument,
                "row 0 has label 5, the job has 3 labels");
}

TEST_F(TorchTrainerTest, Train_RefusesAnAdapterOfAnotherLayout) {
  const Adapter other(*Layout::Create({{.name = "x", .role = "head", .shape = {3}}}));
  ExpectRefused(TrainOne(Plan(1), other, *shard_).status(), absl::StatusCode::kInvalidArgument,
                "the job's layout is " + layout_->hash());
}

TEST_F(TorchTrainerTest, Evaluate_CountsEvenlySpacedRowsExactly) {
  const Adapter start = Start();
  const proto::Evaluation all = EvaluateOne(start, *shard_);
  EXPECT_EQ(all.examples(), 20u);
  TestSplit chosen;
  const TestSplit rows = Rows(20);
  uint64_t correct = 0;
  for (const int64_t row : {0, 6, 13}) {
    chosen.Add({rows.input_ids.begin() + rows.row_offsets[row], rows.input_ids.begin() + rows.row_offsets[row + 1]},
               rows.labels[row]);
  }
  const proto::Evaluation spaced = EvaluateOne(start, *shard_, 3), expected = EvaluateOne(start, *Shard(chosen));
  EXPECT_EQ(spaced.examples(), 3u);
  EXPECT_EQ(spaced.correct(), expected.correct());
  EXPECT_EQ(spaced.loss_sum(), expected.loss_sum());
  for (int64_t row = 0; row < 20; ++row) {
    TestSplit one;
    one.Add({rows.input_ids.begin() + rows.row_offsets[row], rows.input_ids.begin() + rows.row_offsets[row + 1]},
            rows.labels[row]);
    correct += EvaluateOne(start, *Shard(one)).correct();
  }
  EXPECT_EQ(all.correct(), correct);
  EXPECT_EQ(EvaluateOne(start, *shard_, 1000).examples(), 20u);
}

TEST_F(TorchTrainerTest, Evaluate_CancelsAndRefuses) {
  const Adapter start = Start();
  const CohortMember member = {.client_id = "c", .start = &start, .shard = shard_.get(), .seed = 0};
  ExpectRefused(trainer_->Evaluate(EvaluationPlan(), {&member, 1}, [](int64_t, int64_t) { return false; }).status(),
                absl::StatusCode::kCancelled, "of 20 rows");
  ExpectRefused(trainer_->Evaluate(EvaluationPlan(-1), {&member, 1}, Go).status(), absl::StatusCode::kInvalidArgument,
                "rows is -1");
  proto::EvaluationPlan plan = EvaluationPlan();
  plan.set_max_length(1);
  ExpectRefused(trainer_->Evaluate(plan, {&member, 1}, Go).status(), absl::StatusCode::kInvalidArgument,
                "max_length is 1");
  plan = EvaluationPlan();
  plan.set_job_id("other");
  ExpectRefused(trainer_->Evaluate(plan, {&member, 1}, Go).status(), absl::StatusCode::kFailedPrecondition,
                "job other");
}

TEST_F(TorchTrainerTest, PrepareJob_HeadOfTheBaseIsNeededWhenTheAdapterHasNone) {
  const auto layout = trainer_->PrepareJob(Job(/*head=*/false));
  ASSERT_TRUE(layout.ok()) << layout.status();
  const Adapter start(*layout);
  proto::Plan plan = Plan(1);
  plan.mutable_roles_trained()->RemoveLast();
  ExpectRefused(TrainOne(plan, start, *shard_).status(), absl::StatusCode::kInvalidArgument,
                "no tensor classifier.weight");
}

TEST_F(TorchTrainerTest, PrepareJob_RefusesUnknownModulesAndForms) {
  proto::JobOffer job = Job();
  job.mutable_adapter()
      ->mutable_config()
      ->mutable_fields()
      ->at("target_modules")
      .mutable_list_value()
      ->mutable_values(0)
      ->set_string_value("qqq");
  EXPECT_EQ(trainer_->PrepareJob(job).status().code(), absl::StatusCode::kInvalidArgument);
  job = Job();
  job.mutable_adapter()->set_form("magic");
  EXPECT_EQ(trainer_->PrepareJob(job).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(TorchTrainerTest, Create_TellsBaseAndDevice) {
  EXPECT_EQ(trainer_->base_hash(), *HashBase(folder_ + "/base"));
  EXPECT_EQ(trainer_->device(), "cpu (1 thread)");
  EXPECT_EQ(CreateTorchTrainer({.base = folder_ + "/nowhere", .device = "cpu"}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(CreateTorchTrainer({.base = folder_ + "/base", .device = "tpu"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CreateTorchTrainer({.base = folder_ + "/base", .device = "cpu", .threads = -1}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace weft
