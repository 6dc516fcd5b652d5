#ifndef WEFT_TRAINING_TESTING_TRAINER_FIXTURE_H_
#define WEFT_TRAINING_TESTING_TRAINER_FIXTURE_H_

// The trainer over a tiny base, with jobs, plans and rows for it, for tests.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "adapters/forms/form.h"
#include "common/file.h"
#include "training/data/test_data.h"
#include "training/models/test_base.h"
#include "training/trainer.h"

namespace weft {

inline bool Go(int64_t, int64_t) { return true; }

inline void ExpectRefused(const absl::Status& status, absl::StatusCode code, const std::string& part) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(part));
}

// Rows whose label is told by their middle tokens.
inline TestSplit Rows(int count, int offset = 0) {
  TestSplit split;
  for (int i = offset; i < offset + count; ++i) {
    const int32_t label = i % 3;
    std::vector<int32_t> row = {1};
    for (int j = 0; j < 2 + i % 5; ++j) row.push_back(10 + 10 * label + (i * 7 + j) % 10);
    row.push_back(2);
    split.Add(row, label);
  }
  return split;
}

class TrainerFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(TestBase().Write(folder_ + "/base").ok());
    auto trainer = CreateTorchTrainer({.base = folder_ + "/base", .device = "cpu", .threads = 1});
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    trainer_ = *std::move(trainer);
    const auto layout = trainer_->PrepareJob(Job());
    ASSERT_TRUE(layout.ok()) << layout.status();
    layout_ = *layout;
    shard_ = Shard(Rows(20));
  }

  static proto::JobOffer Job(bool head = true) {
    proto::JobOffer job;
    job.set_job_id("j");
    job.mutable_adapter()->set_form("lora");
    auto& fields = *job.mutable_adapter()->mutable_config()->mutable_fields();
    fields["rank"].set_number_value(2);
    for (const char* module : {"query", "value"}) {
      fields["target_modules"].mutable_list_value()->add_values()->set_string_value(module);
    }
    job.mutable_adapter()->set_head(head);
    job.mutable_task()->set_type("sequence_classification");
    for (const char* label : {"a", "b", "c"}) job.mutable_task()->add_labels(label);
    return job;
  }

  static proto::Plan Plan(int64_t steps) {
    proto::Plan plan;
    plan.set_job_id("j");
    for (const char* role : {"lora_a", "lora_b", "head"}) plan.add_roles_trained(role);
    proto::TrainingConfig& training = *plan.mutable_training();
    training.set_steps(steps);
    training.set_batch_size(6);
    training.set_learning_rate(1e-2);
    training.set_max_length(8);
    return plan;
  }

  static proto::EvaluationPlan EvaluationPlan(int64_t rows = 0) {
    proto::EvaluationPlan plan;
    plan.set_job_id("j");
    plan.set_round(3);
    plan.set_rows(rows);
    plan.set_max_length(8);
    return plan;
  }

  std::unique_ptr<DataShard> Shard(const TestSplit& split) {
    const std::string path = absl::StrCat(folder_, "/split", shards_++);
    EXPECT_TRUE(WriteTestSplit(path, split).ok());
    auto shard = DataShard::Open(path, 3);
    EXPECT_TRUE(shard.ok()) << shard.status();
    return *std::move(shard);
  }

  Adapter Start(uint64_t seed = 1) const {
    const auto description = DescribeBase(*ReadFile(folder_ + "/base/config.json"));
    return *MakeInitialAdapter(Job().adapter(), *description, layout_, seed);
  }

  absl::StatusOr<TrainResult> TrainOne(const proto::Plan& plan, const Adapter& start, const DataShard& shard,
                                       uint64_t seed = 7) {
    const CohortMember member = {.client_id = "c", .start = &start, .shard = &shard, .seed = seed};
    auto results = trainer_->Train(plan, {&member, 1}, Go);
    if (!results.ok()) return results.status();
    return std::move(results->at(0));
  }

  absl::Status TrainStatus(const proto::Plan& plan) { return TrainOne(plan, DefaultStart(), *shard_).status(); }

  proto::Evaluation EvaluateOne(const Adapter& adapter, const DataShard& shard, int64_t rows = 0) {
    const CohortMember member = {.client_id = "c", .start = &adapter, .shard = &shard, .seed = 0};
    const auto results = trainer_->Evaluate(EvaluationPlan(rows), {&member, 1}, Go);
    EXPECT_TRUE(results.ok()) << results.status();
    EXPECT_TRUE(results->at(0).ok()) << results->at(0).status();
    return *results->at(0);
  }

  const Adapter& DefaultStart() {
    if (start_ == nullptr) start_ = std::make_unique<Adapter>(Start());
    return *start_;
  }

  const std::string folder_ =
      absl::StrCat(::testing::TempDir(), "/", ::testing::UnitTest::GetInstance()->current_test_info()->name());
  int shards_ = 0;
  std::unique_ptr<Trainer> trainer_;
  std::shared_ptr<const Layout> layout_;
  std::unique_ptr<DataShard> shard_;
  std::unique_ptr<Adapter> start_;
};

inline bool SameBits(const Adapter& a, const Adapter& b) {
  return std::memcmp(a.bytes().data(), b.bytes().data(), a.bytes().size()) == 0;
}

}  // namespace weft

#endif  // WEFT_TRAINING_TESTING_TRAINER_FIXTURE_H_
