// The trainer over a base that reads features.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <latch>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "training/models/test_mlp.h"
#include "training/testing/trainer_fixture.h"

namespace weft {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

class MlpTrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    trainer_ = Open(mlp_, "/base");
    const auto layout = trainer_->PrepareJob(Job());
    ASSERT_TRUE(layout.ok()) << layout.status();
    layout_ = *layout;
    shard_ = Shard(Points(60));
  }

  std::unique_ptr<Trainer> Open(const TestMlp& mlp, const std::string& name) {
    EXPECT_TRUE(mlp.Write(folder_ + name).ok());
    auto trainer = CreateTorchTrainer({.base = folder_ + name, .device = "cpu", .threads = 1});
    EXPECT_TRUE(trainer.ok()) << trainer.status();
    return *std::move(trainer);
  }

  static proto::JobOffer Job(bool head = false, int labels = 3) {
    proto::JobOffer job;
    job.set_job_id("j");
    job.mutable_adapter()->set_form("lora");
    job.mutable_adapter()->set_head(head);
    auto& fields = *job.mutable_adapter()->mutable_config()->mutable_fields();
    fields["rank"].set_number_value(2);
    fields["alpha"].set_number_value(6);
    for (const char* module : {"layers.0", "layers.1"})
      fields["target_modules"].mutable_list_value()->add_values()->set_string_value(module);
    for (int i = 0; i < labels; ++i) job.mutable_task()->add_labels(absl::StrCat(i));
    return job;
  }

  // Points whose label is their largest coordinate.
  static TestFeatures Points(int count) {
    TestFeatures split;
    for (int i = 0; i < count; ++i) {
      std::vector<float> row;
      for (int j = 0; j < 4; ++j) row.push_back(static_cast<float>(std::sin(1.7 * i + 2.9 * j * (i + 1))));
      split.Add(row, static_cast<int32_t>(std::max_element(row.begin(), row.begin() + 3) - row.begin()));
    }
    return split;
  }

  std::unique_ptr<DataShard> Shard(const TestFeatures& split) {
    const std::string path = absl::StrCat(folder_, "/split", shards_++);
    EXPECT_TRUE(WriteTestFeatures(path, split).ok());
    return *DataShard::Open(path, 3);
  }

  Adapter Start() const { return *MakeInitialAdapter(Job().adapter(), *DescribeBase(mlp_.config.dump()), layout_, 1); }

  // No zeros, so that every tensor acts and has a gradient.
  Adapter Dense() const {
    Adapter adapter(layout_);
    double phase = 0;
    for (float& value : adapter.values()) value = static_cast<float>(0.3 * std::sin(phase += 1.7));
    return adapter;
  }

  static proto::Plan Plan(int64_t steps) {
    proto::Plan plan;
    plan.set_job_id("j");
    for (const char* role : {"lora_a", "lora_b"}) plan.add_roles_trained(role);
    plan.mutable_training()->set_steps(steps);
    plan.mutable_training()->set_batch_size(16);
    plan.mutable_training()->set_learning_rate(3e-2);
    return plan;
  }

  absl::StatusOr<TrainResult> Train(const proto::Plan& plan, const Adapter& start, const DataShard& shard) {
    const CohortMember member = {.client_id = "c", .start = &start, .shard = &shard, .seed = 7};
    auto results = trainer_->Train(plan, {&member, 1}, Go);
    if (!results.ok()) return results.status();
    return std::move(results->at(0));
  }

  absl::StatusOr<proto::Evaluation> Evaluate(Trainer& trainer, const Adapter& adapter, const DataShard& shard) {
    const CohortMember member = {.client_id = "c", .start = &adapter, .shard = &shard};
    proto::EvaluationPlan plan;
    plan.set_job_id("j");
    auto results = trainer.Evaluate(plan, {&member, 1}, Go);
    if (!results.ok()) return results.status();
    return results->at(0);
  }

  const std::vector<float>& Values(const std::string& name) const {
    return std::find_if(mlp_.tensors.begin(), mlp_.tensors.end(), [&](const auto& t) { return t.name == name; })
        ->values;
  }

  // W x + b + scale * B A x in double, of a module with an adapter or without.
  std::vector<double> Linear(const std::string& module, const std::vector<double>& x, const Adapter& adapter,
                             double scale) const {
    const std::vector<float>&weight = Values(module + ".weight"), &bias = Values(module + ".bias");
    std::vector<double> y(bias.begin(), bias.end());
    for (size_t o = 0; o < y.size(); ++o) {
      for (size_t i = 0; i < x.size(); ++i) y[o] += weight[o * x.size() + i] * x[i];
    }
    const TensorSpec* a = layout_->Find(module + ".lora_A.weight");
    if (a == nullptr) return y;
    const TensorSpec* b = layout_->Find(module + ".lora_B.weight");
    for (int64_t r = 0; r < a->shape[0]; ++r) {
      double low = 0;
      for (size_t i = 0; i < x.size(); ++i) low += adapter.tensor(*a)[r * x.size() + i] * x[i];
      for (size_t o = 0; o < y.size(); ++o) y[o] += scale * adapter.tensor(*b)[o * a->shape[0] + r] * low;
    }
    return y;
  }

  double LossByHand(const TestFeatures& split, const Adapter& adapter, double scale) const {
    double sum = 0;
    for (size_t row = 0; row < split.labels.size(); ++row) {
      const auto begin = split.features.begin() + static_cast<int64_t>(row) * split.width;
      std::vector<double> x(begin, begin + split.width);
      for (const char* module : {"layers.0", "layers.1"}) {
        x = Linear(module, x, adapter, scale);
        for (double& value : x) value = std::max(value, 0.0);
      }
      x = Linear("head", x, adapter, scale);
      double total = 0;
      for (const double logit : x) total += std::exp(logit);
      sum += std::log(total) - x[split.labels[row]];
    }
    return sum;
  }

  const std::string folder_ =
      absl::StrCat(::testing::TempDir(), "/", ::testing::UnitTest::GetInstance()->current_test_info()->name());
  const TestMlp mlp_{{4, 12, 9, 3}};
  int shards_ = 0;
  std::unique_ptr<Trainer> trainer_;
  std::shared_ptr<const Layout> layout_;
  std::unique_ptr<DataShard> shard_;
};

TEST_F(MlpTrainerTest, Evaluate_IsTheNetworkWithItsAdapter) {
  const Adapter adapter = Dense();
  const auto found = Evaluate(*trainer_, adapter, *shard_);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->examples(), 60u);
  // Measured 2e-7 of a sum of about 60.
  EXPECT_NEAR(found->loss_sum(), LossByHand(Points(60), adapter, 3), 2e-6);
  EXPECT_GT(std::abs(found->loss_sum() - LossByHand(Points(60), adapter, 3.001)), 2e-6);
}

TEST_F(MlpTrainerTest, Train_LearnsWithAFrozenHead) {
  const Adapter start = Start();
  const auto result = Train(Plan(400), start, *shard_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->metrics.steps(), 400);
  EXPECT_EQ(result->metrics.tokens(), 0);
  EXPECT_LT(Evaluate(*trainer_, start, *shard_)->correct(), 40u);
  EXPECT_GT(Evaluate(*trainer_, result->adapter, *shard_)->correct(), 50u);
}

// The first pass of a job, by threads that share the trainer: what it reads of the base then, it must not write down.
TEST_F(MlpTrainerTest, Train_FirstCallsSideBySideWithAFrozenHead) {
  const Adapter start = Start();
  const auto alone = Train(Plan(1), start, *shard_);
  ASSERT_TRUE(alone.ok()) << alone.status();
  for (int i = 0; i < 100; ++i) {
    trainer_ = Open(mlp_, "/base");
    ASSERT_TRUE(trainer_->PrepareJob(Job()).ok());
    std::vector<absl::StatusOr<TrainResult>> results(6);
    std::latch all_there(static_cast<int64_t>(results.size()));
    std::vector<std::thread> threads;
    for (auto& result : results) {
      threads.emplace_back([&] {
        all_there.arrive_and_wait();
        result = Train(Plan(1), start, *shard_);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& result : results) {
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_TRUE(std::ranges::equal(result->adapter.values(), alone->adapter.values()));
    }
  }
}

// The first step of plain descent is the gradient.
TEST_F(MlpTrainerTest, Train_StepFollowsTheSlopeOfTheLoss) {
  const Adapter start = Dense();
  proto::Plan plan = Plan(1);
  proto::TrainingConfig& training = *plan.mutable_training();
  training.set_optimizer("sgd");
  training.set_learning_rate(1);
  training.set_weight_decay(0);
  training.set_clip_grad_norm(0);
  training.set_batch_size(60);
  const auto result = Train(plan, start, *shard_);
  ASSERT_TRUE(result.ok()) << result.status();
  const TestFeatures points = Points(60);
  double largest = 0, perturbed = 0;
  for (size_t i = 0; i < start.values().size(); ++i) {
    Adapter up = start.Clone(), down = start.Clone();
    up.values()[i] += 1e-5f;
    down.values()[i] -= 1e-5f;
    const double width = static_cast<double>(up.values()[i]) - down.values()[i];
    const double slope = (LossByHand(points, up, 3) - LossByHand(points, down, 3)) / width / 60;
    const double found = static_cast<double>(start.values()[i]) - result->adapter.values()[i];
    largest = std::max(largest, std::abs(found - slope));
    perturbed = std::max(perturbed, std::abs(found - 1.01 * slope));
  }
  EXPECT_LT(largest, 1e-6);  // measured 1.5e-8; slopes reach 0.06
  EXPECT_GT(perturbed, 1e-6);
}

TEST_F(MlpTrainerTest, Train_TheHeadMayBeTheAdapters) {
  proto::JobOffer job = Job(/*head=*/true);
  job.set_job_id("head");
  const auto layout = trainer_->PrepareJob(job);
  ASSERT_TRUE(layout.ok()) << layout.status();
  ASSERT_NE((*layout)->Find("head.weight"), nullptr);
  EXPECT_THAT((*layout)->Find("head.weight")->shape, ::testing::ElementsAre(3, 9));
  const Adapter start(*layout);
  proto::Plan plan = Plan(1);
  plan.set_job_id("head");
  plan.add_roles_trained("head");
  const auto result = Train(plan, start, *shard_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_NE(result->adapter.tensor(*(*layout)->Find("head.bias"))[0], 0);
}

TEST_F(MlpTrainerTest, Train_RefusesALabelSetTheFrozenHeadLacks) {
  ASSERT_TRUE(trainer_->PrepareJob(Job(/*head=*/false, /*labels=*/5)).ok());
  ExpectRefused(Train(Plan(1), Start(), *shard_).status(), kInvalid, "head.weight has shape [3, 9]");
}

TEST_F(MlpTrainerTest, Train_RefusesRowsOfAnotherKindOrWidth) {
  ExpectRefused(Train(Plan(1), Start(), *Shard(TestFeatures().Add({1, 2}, 0))).status(), kInvalid,
                "client c: rows of 2 features, the base reads 4 features");
  const std::string path = folder_ + "/tokens";
  ASSERT_TRUE(WriteTestSplit(path, Rows(3)).ok());
  const auto tokens = *DataShard::Open(path, 3);
  ExpectRefused(Train(Plan(1), Start(), *tokens).status(), kInvalid, "rows of tokens, the base reads 4 features");
  ExpectRefused(Evaluate(*trainer_, Start(), *tokens).status(), kInvalid, "rows of tokens");
}

TEST_F(MlpTrainerTest, Train_RefusesALabelOutsideTheJobsNamingTheRow) {
  const std::string path = folder_ + "/labels";
  ASSERT_TRUE(WriteTestFeatures(path, TestFeatures().Add({1, 2, 3, 4}, 7)).ok());
  ExpectRefused(Train(Plan(1), Start(), **DataShard::Open(path, 8)).status(), kInvalid,
                "client c: row 0 has label 7, the job has 3 labels");
}

TEST_F(MlpTrainerTest, Create_NamesWhatTheWeightsLack) {
  TestMlp mlp({4, 12, 9, 3});
  mlp.tensors[2].name = "other";
  ASSERT_TRUE(mlp.Write(folder_ + "/bad").ok());
  ExpectRefused(CreateTorchTrainer({.base = folder_ + "/bad", .device = "cpu"}).status(), kInvalid,
                "no tensor layers.1.weight");
  mlp = TestMlp({4, 12, 9, 3});
  mlp.config["sizes"] = {4, 12, 8, 3};
  ASSERT_TRUE(mlp.Write(folder_ + "/bad").ok());
  ExpectRefused(CreateTorchTrainer({.base = folder_ + "/bad", .device = "cpu"}).status(), kInvalid,
                "layers.1.weight has shape [9, 12], config.json asks for [8, 12]");
}

TEST_F(TrainerFixture, Train_ATextBaseRefusesFeatures) {
  const std::string path = folder_ + "/features";
  ASSERT_TRUE(WriteTestFeatures(path, TestFeatures().Add({1, 2}, 0)).ok());
  ExpectRefused(TrainOne(Plan(1), DefaultStart(), **DataShard::Open(path, 3)).status(), kInvalid,
                "client c: rows of 2 features, the base reads rows of tokens with a label");
}

}  // namespace
}  // namespace weft
