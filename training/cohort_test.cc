// Members of a cohort in one pass: each comes out as it would alone, and costs the others nothing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "training/testing/trainer_fixture.h"

namespace weft {
namespace {

// A row alone and among others differ by the order of sums in the matrix products; over a few steps of AdamW that
// grows. Measured: 2e-6 of values up to 0.3.
constexpr double kTolerance = 2e-5;

double Difference(const Adapter& a, const Adapter& b) {
  double most = 0;
  for (size_t i = 0; i < a.values().size(); ++i) most = std::max<double>(most, std::abs(a.values()[i] - b.values()[i]));
  return most;
}

class CohortTest : public TrainerFixture {
 protected:
  // `count` members with starts and shards of their own, of 1 to 20 rows.
  std::vector<CohortMember> Members(int count) {
    std::vector<CohortMember> members;
    starts_.reserve(count);
    for (int k = 0; k < count; ++k) {
      starts_.push_back(Start(k));
      shards_.push_back(Shard(Rows(1 + (k * 7) % 20, 13 * k)));
      members.push_back({.client_id = absl::StrCat(k),
                         .start = &starts_.back(),
                         .shard = shards_.back().get(),
                         .seed = static_cast<uint64_t>(k)});
    }
    return members;
  }

  std::vector<absl::StatusOr<TrainResult>> Train(const proto::Plan& plan, std::span<const CohortMember> members) {
    auto results = trainer_->Train(plan, members, Go);
    EXPECT_TRUE(results.ok()) << results.status();
    return *std::move(results);
  }

  // Each member of `together` against a run of it alone.
  void ExpectAsAlone(const proto::Plan& plan, const std::vector<CohortMember>& members) {
    const auto together = Train(plan, members);
    for (size_t k = 0; k < members.size(); ++k) {
      const auto alone = Train(plan, {&members[k], 1});
      ASSERT_TRUE(together[k].ok() && alone[0].ok()) << together[k].status() << alone[0].status();
      EXPECT_LT(Difference(together[k]->adapter, alone[0]->adapter), kTolerance) << k;
      EXPECT_GT(Difference(together[k]->adapter, *members[k].start), kTolerance) << k;
      EXPECT_EQ(together[k]->metrics.steps(), alone[0]->metrics.steps());
      EXPECT_EQ(together[k]->metrics.tokens(), alone[0]->metrics.tokens());
      EXPECT_NEAR(together[k]->metrics.loss(), alone[0]->metrics.loss(), 1e-5);
    }
  }

  static proto::Plan Epochs(int64_t epochs) {
    proto::Plan plan = Plan(0);
    plan.mutable_training()->set_epochs(epochs);
    return plan;
  }

  std::vector<Adapter> starts_;
  std::vector<std::unique_ptr<DataShard>> shards_;
};

TEST_F(CohortTest, Train_ThirtyTwoMembersAsEachAlone) {
  const std::vector<CohortMember> members = Members(32);
  ExpectAsAlone(Epochs(2), members);
  const auto results = Train(Epochs(2), members);
  EXPECT_GT(Difference(results[0]->adapter, results[1]->adapter), kTolerance);
}

TEST_F(CohortTest, Train_SameCohortSameBits) {
  const std::vector<CohortMember> members = Members(5);
  const auto first = Train(Epochs(1), members), again = Train(Epochs(1), members);
  for (size_t k = 0; k < members.size(); ++k) EXPECT_TRUE(SameBits(first[k]->adapter, again[k]->adapter));
}

TEST_F(CohortTest, Train_CallsSideBySideSameBits) {
  const std::vector<CohortMember> members = Members(12);
  for (const char* compute : {"f32", "bf16"}) {
    proto::Plan plan = Epochs(3);
    plan.mutable_training()->set_compute(compute);
    std::vector<std::vector<absl::StatusOr<TrainResult>>> side_by_side(4);
    std::vector<std::thread> threads;
    for (size_t t = 0; t < side_by_side.size(); ++t) {
      threads.emplace_back([&, t] { side_by_side[t] = Train(plan, std::span(members).subspan(3 * t, 3)); });
    }
    for (std::thread& thread : threads) thread.join();
    for (size_t t = 0; t < side_by_side.size(); ++t) {
      const auto alone = Train(plan, std::span(members).subspan(3 * t, 3));
      for (size_t k = 0; k < alone.size(); ++k) {
        EXPECT_TRUE(SameBits(alone[k]->adapter, side_by_side[t][k]->adapter)) << compute << t << k;
      }
    }
  }
}

TEST_F(CohortTest, Train_ReportsStepsOfAll) {
  const std::vector<CohortMember> members = Members(3);  // 1, 8 and 15 rows: 1, 2 and 3 steps an epoch
  std::vector<int64_t> done;
  ASSERT_TRUE(trainer_
                  ->Train(Epochs(2), members,
                          [&](int64_t steps, int64_t total) {
                            done.push_back(steps);
                            EXPECT_EQ(total, 12);
                            return true;
                          })
                  .ok());
  EXPECT_THAT(done, ::testing::ElementsAre(3, 6, 8, 10, 11, 12));
}

TEST_F(CohortTest, Train_HyperParametersOfTheirOwn) {
  std::vector<CohortMember> members = Members(3);
  proto::TrainingConfig other = Epochs(3).training();
  other.set_learning_rate(1e-3);
  other.set_optimizer("sgd");
  other.set_momentum(0.9);
  other.set_batch_size(4);
  other.set_accumulation(2);
  other.set_schedule("cosine");
  other.set_warmup_steps(1);
  members[1].training = &other;
  ExpectAsAlone(Epochs(2), members);
  const auto with = Train(Epochs(2), members);
  members[1].training = nullptr;
  EXPECT_GT(Difference(with[1]->adapter, Train(Epochs(2), members)[1]->adapter), kTolerance);
}

// Members that can't share a pass are trained in passes of their own.
TEST_F(CohortTest, Train_OtherNumbersInThePass) {
  std::vector<CohortMember> members = Members(3);
  proto::TrainingConfig half = Epochs(2).training(), again = half, smooth = half;
  half.set_compute("bf16");
  again.set_checkpointing(true);
  smooth.set_label_smoothing(0.2);
  members[0].training = &half;
  members[1].training = &again;
  members[2].training = &smooth;
  ExpectAsAlone(Epochs(2), members);
  std::vector<CohortMember> plain = members;
  for (CohortMember& member : plain) member.training = nullptr;
  const auto results = Train(Epochs(2), members), expected = Train(Epochs(2), plain);
  EXPECT_GT(Difference(results[0]->adapter, expected[0]->adapter), kTolerance);
  EXPECT_LT(Difference(results[1]->adapter, expected[1]->adapter), kTolerance);
  EXPECT_GT(Difference(results[2]->adapter, expected[2]->adapter), kTolerance);
}

TEST_F(CohortTest, Train_RanksOfTheirOwn) {
  std::vector<CohortMember> members = Members(3);
  members[1].rank = 1;
  ExpectAsAlone(Epochs(2), members);
}

TEST_F(CohortTest, Train_DropoutIsEachMembersOwn) {
  proto::JobOffer job = Job();
  (*job.mutable_adapter()->mutable_config()->mutable_fields())["dropout"].set_number_value(0.5);
  const std::vector<CohortMember> members = Members(3);
  const auto without = Train(Epochs(2), members);
  ASSERT_TRUE(trainer_->PrepareJob(job).ok());
  ExpectAsAlone(Epochs(2), members);
  EXPECT_GT(Difference(Train(Epochs(2), members)[0]->adapter, without[0]->adapter), kTolerance);
  // Layers computed again see the same masks.
  proto::Plan again = Epochs(2);
  again.mutable_training()->set_checkpointing(true);
  EXPECT_LT(Difference(Train(Epochs(2), members)[2]->adapter, Train(again, members)[2]->adapter), kTolerance);
}

TEST_F(CohortTest, Train_OneThatFailsCostsTheOthersNothing) {
  std::vector<CohortMember> members = Members(4);
  const auto bad_token = Shard(TestSplit().Add({1, 2}, 0).Add({1, 77, 2}, 1));
  const auto empty = Shard(TestSplit());
  members[0].shard = bad_token.get();
  members[1].shard = empty.get();
  Adapter nan = Start(9);
  nan.tensor(*layout_->Find("classifier.bias"))[0] = std::nanf("");
  members[2].start = &nan;
  const auto results = Train(Epochs(2), members);
  ExpectRefused(results[0].status(), absl::StatusCode::kInvalidArgument, "client 0: row 1 holds token 77");
  ExpectRefused(results[1].status(), absl::StatusCode::kInvalidArgument, "client 1: empty shard");
  ExpectRefused(results[2].status(), absl::StatusCode::kOutOfRange,
                "client 2: the loss is not a finite number at step 1;");
  ASSERT_TRUE(results[3].ok()) << results[3].status();
  EXPECT_LT(Difference(results[3]->adapter, Train(Epochs(2), {&members[3], 1})[0]->adapter), kTolerance);
}

// Two batches of three rows whose gradients are added are one of six.
TEST_F(CohortTest, Train_AccumulatedBatchesAreOneStep) {
  const auto six = Shard(Rows(6));
  const Adapter start = Start();
  const CohortMember member = {.client_id = "c", .start = &start, .shard = six.get(), .seed = 3};
  proto::Plan whole = Epochs(3), parts = whole;
  whole.mutable_training()->set_batch_size(6);
  parts.mutable_training()->set_batch_size(3);
  parts.mutable_training()->set_accumulation(2);
  const auto one = Train(whole, {&member, 1}), two = Train(parts, {&member, 1});
  EXPECT_EQ(two[0]->metrics.steps(), 3);
  EXPECT_LT(Difference(one[0]->adapter, two[0]->adapter), kTolerance);
  parts.mutable_training()->set_accumulation(1);
  EXPECT_GT(Difference(one[0]->adapter, Train(parts, {&member, 1})[0]->adapter), kTolerance);
}

TEST_F(CohortTest, Train_RefusesWhatDoesNotFitIntoMemory) {
  auto small = CreateTorchTrainer({.base = folder_ + "/base", .device = "cpu", .threads = 1, .memory_bytes = 300'000});
  ASSERT_TRUE(small.ok()) << small.status();
  ASSERT_TRUE((*small)->PrepareJob(Job()).ok());
  proto::Plan plan = Plan(1);
  plan.mutable_training()->set_batch_size(20);
  const CohortMember member = {.client_id = "c", .start = &DefaultStart(), .shard = shard_.get(), .seed = 3};
  const auto refused = (*small)->Train(plan, {&member, 1}, Go);
  ExpectRefused(refused.status(), absl::StatusCode::kResourceExhausted, "lower training.batch_size (20)");
  plan.mutable_training()->set_batch_size(2);
  EXPECT_TRUE((*small)->Train(plan, {&member, 1}, Go).ok());
  auto many = CreateTorchTrainer(
      {.base = folder_ + "/base", .device = "cpu", .threads = 1, .memory_bytes = 300'000, .calls = 20});
  ASSERT_TRUE(many.ok() && (*many)->PrepareJob(Job()).ok());
  ExpectRefused((*many)->Train(plan, {&member, 1}, Go).status(), absl::StatusCode::kResourceExhausted, "in 20 threads");
}

TEST_F(CohortTest, Evaluate_CountsEachMembersRows) {
  const std::vector<CohortMember> members = Members(12);
  const auto together = trainer_->Evaluate(EvaluationPlan(), members, Go);
  ASSERT_TRUE(together.ok()) << together.status();
  for (size_t k = 0; k < members.size(); ++k) {
    ASSERT_TRUE(together->at(k).ok()) << together->at(k).status();
    const proto::Evaluation alone = EvaluateOne(*members[k].start, *members[k].shard), &result = *together->at(k);
    EXPECT_EQ(result.client_id(), absl::StrCat(k));
    EXPECT_EQ(result.examples(), alone.examples());
    EXPECT_EQ(result.correct(), alone.correct());
    EXPECT_NEAR(result.loss_sum(), alone.loss_sum(), 1e-4);
    ASSERT_EQ(result.classes_size(), 3);
    uint64_t correct = 0, predicted = 0, actual = 0;
    for (const proto::ClassCounts& counts : result.classes()) {
      correct += counts.correct();
      predicted += counts.predicted();
      actual += counts.actual();
    }
    EXPECT_EQ(correct, result.correct());
    EXPECT_EQ(predicted, result.examples());
    EXPECT_EQ(actual, result.examples());
  }
}

}  // namespace
}  // namespace weft
