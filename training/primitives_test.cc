// The plan's primitives as the trainer carries them out. Every tolerance is beside what was measured.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "training/testing/trainer_fixture.h"

namespace weft {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr char kQuery[] = "bert.encoder.layer.1.attention.self.query";
constexpr char kDense[] = "bert.encoder.layer.0.intermediate.dense";

// Plain descent: a step is learning rate times gradient.
proto::Plan WithSgd(proto::Plan plan, double learning_rate) {
  proto::TrainingConfig& training = *plan.mutable_training();
  training.set_optimizer("sgd");
  training.set_learning_rate(learning_rate);
  training.set_weight_decay(0);
  training.set_clip_grad_norm(0);
  return plan;
}

// No values of zero, so that every tensor has a gradient.
Adapter Dense(Adapter adapter) {
  float x = 0.05f;
  for (float& value : adapter.values()) {
    if (value == 0) value = x = -x * 0.9f + 0.01f;
  }
  return adapter;
}

// Largest |(a - b) - factor * (c - d)| over all elements.
double Deviation(const Adapter& a, const Adapter& b, double factor, const Adapter& c, const Adapter& d) {
  double largest = 0;
  for (size_t i = 0; i < a.values().size(); ++i) {
    const double expected = factor * (static_cast<double>(c.values()[i]) - d.values()[i]);
    largest = std::max(largest, std::abs(static_cast<double>(a.values()[i]) - b.values()[i] - expected));
  }
  return largest;
}

Adapter MakeStep(const std::vector<TensorSpec>& specs, double size = 0.3) {
  Adapter step(*Layout::Create(specs));
  double phase = 0;
  for (float& element : step.values()) element = static_cast<float>(size * std::sin(phase += 1.7));
  return step;
}

// A change of the modules kDense [40, 24] and kQuery [24, 24].
Adapter SmallStep(double size = 0.3) {
  return MakeStep({{absl::StrCat(kDense, ".base_A.weight"), "base_a", {3, 24}},
                   {absl::StrCat(kDense, ".base_B.weight"), "base_b", {40, 3}},
                   {absl::StrCat(kQuery, ".base_A.weight"), "base_a", {1, 24}},
                   {absl::StrCat(kQuery, ".base_B.weight"), "base_b", {24, 1}},
                   {"note", "server.m", {2}}},
                  size);
}

class PrimitivesTest : public TrainerFixture {
 protected:
  TrainResult Train(const proto::Plan& plan, CohortMember member) {
    if (member.shard == nullptr) member.shard = shard_.get();
    member.seed = 7;
    auto results = trainer_->Train(plan, {&member, 1}, Go);
    EXPECT_TRUE(results.ok()) << results.status();
    EXPECT_TRUE(results->at(0).ok()) << results->at(0).status();
    return *std::move(results->at(0));
  }

  absl::Status Refusal(const proto::Plan& plan, CohortMember member = {.client_id = "c"}) {
    member.start = &DefaultStart();
    member.shard = shard_.get();
    const auto results = trainer_->Train(plan, {&member, 1}, Go);
    return results.ok() ? results->at(0).status() : results.status();
  }

  double LossOf(Trainer& trainer, const Adapter& adapter, const std::string& job = "j", int64_t rank = 0) {
    const CohortMember member = {.client_id = "c", .start = &adapter, .shard = shard_.get(), .rank = rank};
    proto::EvaluationPlan plan = EvaluationPlan();
    plan.set_job_id(job);
    const auto results = trainer.Evaluate(plan, {&member, 1}, Go);
    EXPECT_TRUE(results.ok()) << results.status();
    return results->at(0)->loss_sum();
  }

  // A trainer whose base holds W + 8 * B A where the steps say so; 8 is the scale of the fixture's job.
  std::unique_ptr<Trainer> Merged(const std::vector<const Adapter*>& steps, double scale = 8) {
    TestBase base;
    for (const Adapter* step : steps) {
      for (const char* module : {kDense, kQuery}) {
        const TensorSpec* a = step->layout().Find(absl::StrCat(module, ".base_A.weight"));
        const TensorSpec* b = step->layout().Find(absl::StrCat(module, ".base_B.weight"));
        std::vector<float>& weight = base.Find(std::string(module).substr(5) + ".weight").values;
        const int64_t rank = a->shape[0], in = a->shape[1], out = b->shape[0];
        for (int64_t o = 0; o < out; ++o) {
          for (int64_t i = 0; i < in; ++i) {
            double sum = 0;
            for (int64_t r = 0; r < rank; ++r)
              sum += static_cast<double>(step->tensor(*b)[o * rank + r]) * step->tensor(*a)[r * in + i];
            weight[o * in + i] += static_cast<float>(scale * sum);
          }
        }
      }
    }
    const std::string folder = absl::StrCat(folder_, "/merged", scale);
    EXPECT_TRUE(base.Write(folder).ok());
    auto trainer = *CreateTorchTrainer({.base = folder, .device = "cpu", .threads = 1});
    EXPECT_TRUE(trainer->PrepareJob(Job()).ok());
    return trainer;
  }
};

// The term is zero in the first step, and mu (w_1 - w_0) in the second.
TEST_F(PrimitivesTest, Proximal_AddsItsGradientAndNoLoss) {
  const Adapter start = Dense(Start());
  const double rate = 0.5, mu = 0.5;
  const TrainResult one = Train(WithSgd(Plan(1), rate), {.client_id = "c", .start = &start});
  const TrainResult plain = Train(WithSgd(Plan(2), rate), {.client_id = "c", .start = &start});
  proto::Plan plan = WithSgd(Plan(2), rate);
  plan.set_proximal_mu(mu);
  const TrainResult proximal = Train(plan, {.client_id = "c", .start = &start});
  // Measured 1e-8, where the term reaches 0.02.
  EXPECT_LT(Deviation(plain.adapter, proximal.adapter, rate * mu, one.adapter, start), 1e-7);
  EXPECT_GT(Deviation(plain.adapter, proximal.adapter, rate * mu * 1.01, one.adapter, start), 1e-7);
  EXPECT_EQ(plain.metrics.loss(), proximal.metrics.loss());
  plan.mutable_training()->set_steps(1);
  EXPECT_TRUE(SameBits(Train(plan, {.client_id = "c", .start = &start}).adapter, one.adapter));
}

TEST_F(PrimitivesTest, Control_IsAddedToTheGradientOfTensorsOfItsNames) {
  const Adapter start = Dense(Start());
  const TensorSpec& b = *layout_->Find(absl::StrCat(kQuery, ".lora_B.weight"));
  const Adapter control = MakeStep({b}), none(control.layout_ptr());
  const proto::Plan plan = WithSgd(Plan(1), 0.5);
  const TrainResult plain = Train(plan, {.client_id = "c", .start = &start});
  const TrainResult corrected = Train(plan, {.client_id = "c", .start = &start, .control = &control});
  double largest = 0, perturbed = 0;
  for (int64_t i = 0; i < b.size; ++i) {
    const double step = static_cast<double>(plain.adapter.tensor(b)[i]) - corrected.adapter.tensor(b)[i];
    largest = std::max(largest, std::abs(step - 0.5 * control.values()[i]));
    perturbed = std::max(perturbed, std::abs(step - 0.51 * control.values()[i]));
  }
  EXPECT_LT(largest, 1e-7);  // measured 1e-8
  EXPECT_GT(perturbed, 1e-7);
  for (const TensorSpec& spec : layout_->tensors()) {
    if (spec.name == b.name) continue;
    const auto before = plain.adapter.tensor(spec), after = corrected.adapter.tensor(spec);
    EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin())) << spec.name;
  }
  EXPECT_TRUE(SameBits(Train(plan, {.client_id = "c", .start = &start, .control = &none}).adapter, plain.adapter));
  EXPECT_EQ(corrected.metrics.loss(), plain.metrics.loss());
}

TEST_F(PrimitivesTest, Control_IsClippedWithTheGradient) {
  const Adapter start = Start();
  Adapter control(layout_);
  for (float& value : control.values()) value = 100;
  proto::Plan plan = WithSgd(Plan(1), 1);
  plan.mutable_training()->set_clip_grad_norm(0.01);
  const TrainResult result = Train(plan, {.client_id = "c", .start = &start, .control = &control});
  double squares = 0;
  for (size_t i = 0; i < start.values().size(); ++i) {
    squares += std::pow(static_cast<double>(start.values()[i]) - result.adapter.values()[i], 2);
  }
  EXPECT_NEAR(std::sqrt(squares), 0.01, 1e-6);
}

TEST_F(PrimitivesTest, Rank_EqualsAJobOfThatRankAtTheSameScale) {
  proto::JobOffer small = Job();
  small.set_job_id("small");
  auto& fields = *small.mutable_adapter()->mutable_config()->mutable_fields();
  fields["rank"].set_number_value(1);
  fields["alpha"].set_number_value(8);  // 8 / 1, as the fixture's 16 / 2
  const auto small_layout = *trainer_->PrepareJob(small);
  const Adapter start = Dense(Start());
  // Copies the first components of the factors between the two layouts.
  const auto transfer = [&](const Adapter& large, Adapter* cut, bool back, Adapter* padded) {
    for (const TensorSpec& spec : small_layout->tensors()) {
      const TensorSpec& wide = *layout_->Find(spec.name);
      const int64_t stride = spec.role == "lora_b" ? 2 : 1;
      for (int64_t i = 0; i < spec.size; ++i) {
        if (back) {
          padded->tensor(wide)[i * stride] = cut->tensor(spec)[i];
        } else {
          cut->tensor(spec)[i] = large.tensor(wide)[i * stride];
        }
      }
    }
  };
  Adapter small_start(small_layout), padded(layout_);
  transfer(start, &small_start, false, nullptr);
  proto::Plan plan = Plan(5);
  TrainResult cut = Train(plan, {.client_id = "c", .start = &start, .rank = 1});
  plan.set_job_id("small");
  TrainResult alone = Train(plan, {.client_id = "c", .start = &small_start});
  transfer(start, &alone.adapter, true, &padded);
  EXPECT_TRUE(SameBits(cut.adapter, padded));  // and zero beyond the rank
  EXPECT_EQ(cut.metrics.loss(), alone.metrics.loss());
  EXPECT_EQ(LossOf(*trainer_, start, "j", 1), LossOf(*trainer_, small_start, "small"));
  EXPECT_NE(LossOf(*trainer_, start, "j", 1), LossOf(*trainer_, start));
  EXPECT_TRUE(SameBits(Train(Plan(2), {.client_id = "c", .start = &start, .rank = 2}).adapter,
                       Train(Plan(2), {.client_id = "c", .start = &start}).adapter));
}

TEST_F(PrimitivesTest, Rank_CutsTheControlAndFrozenFactorsToo) {
  const Adapter start = Dense(Start());
  Adapter control(layout_);
  for (float& value : control.values()) value = 1;
  proto::Plan plan = WithSgd(Plan(1), 1);
  plan.clear_roles_trained();
  plan.add_roles_trained("lora_b");
  const TrainResult plain = Train(plan, {.client_id = "c", .start = &start, .rank = 1});
  const TrainResult corrected = Train(plan, {.client_id = "c", .start = &start, .rank = 1, .control = &control});
  for (const TensorSpec& spec : layout_->tensors()) {
    for (int64_t i = 0; i < spec.size; ++i) {
      const bool beyond = spec.role == "lora_a" ? i >= spec.shape[1] : spec.role == "lora_b" && i % 2 == 1;
      const float before = plain.adapter.tensor(spec)[i], after = corrected.adapter.tensor(spec)[i];
      const float expected = beyond ? 0 : spec.role == "lora_b" ? before - 1 : start.tensor(spec)[i];
      EXPECT_NEAR(after, expected, spec.role == "lora_b" && !beyond ? 1e-6 : 0) << spec.name;
    }
  }
}

TEST_F(PrimitivesTest, LearningRateScale_IsTheRoleAtThatRate) {
  const Adapter start = Dense(Start());
  proto::Plan slow = Plan(1), fast = Plan(1), mixed = Plan(1);
  slow.mutable_training()->set_learning_rate(0.125);
  fast.mutable_training()->set_learning_rate(0.5);
  mixed.mutable_training()->set_learning_rate(0.125);
  (*mixed.mutable_learning_rate_scale())["lora_b"] = 4;
  (*mixed.mutable_learning_rate_scale())["head"] = 0;
  const TrainResult at_slow = Train(slow, {.client_id = "c", .start = &start}),
                    at_fast = Train(fast, {.client_id = "c", .start = &start}),
                    at_mixed = Train(mixed, {.client_id = "c", .start = &start});
  for (const TensorSpec& spec : layout_->tensors()) {
    const Adapter& expected = spec.role == "lora_b" ? at_fast.adapter : spec.role == "head" ? start : at_slow.adapter;
    const auto found = at_mixed.adapter.tensor(spec), wanted = expected.tensor(spec);
    EXPECT_TRUE(std::equal(found.begin(), found.end(), wanted.begin())) << spec.name;
  }
}

// The regulariser of one module, at rank 2 and gamma 0.5: lambda |B[:, 1]| |A[1, :]|.
double Regulariser(const Adapter& adapter, const std::string& module, double lambda) {
  const TensorSpec& a = *adapter.layout().Find(module + ".lora_A.weight");
  const TensorSpec& b = *adapter.layout().Find(module + ".lora_B.weight");
  double a_squares = 0, b_squares = 0;
  for (int64_t i = a.shape[1]; i < a.size; ++i) a_squares += std::pow(adapter.tensor(a)[i], 2);
  for (int64_t i = 1; i < b.size; i += 2) b_squares += std::pow(adapter.tensor(b)[i], 2);
  return lambda * std::sqrt(a_squares) * std::sqrt(b_squares);
}

TEST_F(PrimitivesTest, RankPruning_AddsTheSlopeOfItsTermAndNoLoss) {
  const Adapter start = Dense(Start());
  const double rate = 0.5, lambda = 0.5;
  proto::Plan plan = WithSgd(Plan(1), rate);
  const TrainResult plain = Train(plan, {.client_id = "c", .start = &start});
  plan.mutable_rank_pruning()->set_lambda(lambda);
  plan.mutable_rank_pruning()->set_gamma(0.5);
  const TrainResult pruned = Train(plan, {.client_id = "c", .start = &start});
  EXPECT_EQ(plain.metrics.loss(), pruned.metrics.loss());
  double largest = 0, perturbed = 0;
  for (const TensorSpec& spec : layout_->tensors()) {
    const std::string module = spec.name.substr(0, spec.name.find(".lora_"));
    for (int64_t i = 0; i < spec.size; ++i) {
      double slope = 0;
      if (spec.role != "head") {
        Adapter up = start.Clone(), down = start.Clone();
        up.tensor(spec)[i] += 1e-4f;
        down.tensor(spec)[i] -= 1e-4f;
        slope = (Regulariser(up, module, lambda) - Regulariser(down, module, lambda)) /
                (static_cast<double>(up.tensor(spec)[i]) - down.tensor(spec)[i]);
      }
      const double found = (static_cast<double>(plain.adapter.tensor(spec)[i]) - pruned.adapter.tensor(spec)[i]) / rate;
      largest = std::max(largest, std::abs(found - slope));
      perturbed = std::max(perturbed, std::abs(found - 1.01 * slope));
    }
  }
  EXPECT_LT(largest, 5e-6);  // measured 5e-7
  EXPECT_GT(perturbed, 5e-6);
}

TEST_F(PrimitivesTest, RankPruning_LeavesZeroTailsAndUntrainedFactorsAlone) {
  const Adapter zero_b = Start(), dense = Dense(Start());
  proto::Plan plan = WithSgd(Plan(1), 1), pruning = plan;
  pruning.mutable_rank_pruning()->set_lambda(1);
  pruning.mutable_rank_pruning()->set_gamma(0.5);
  EXPECT_TRUE(SameBits(Train(pruning, {.client_id = "c", .start = &zero_b}).adapter,
                       Train(plan, {.client_id = "c", .start = &zero_b}).adapter));
  // At rank 1 no component is left to prune.
  EXPECT_TRUE(SameBits(Train(pruning, {.client_id = "c", .start = &dense, .rank = 1}).adapter,
                       Train(plan, {.client_id = "c", .start = &dense, .rank = 1}).adapter));
  pruning.clear_roles_trained();
  pruning.add_roles_trained("lora_b");
  const TrainResult result = Train(pruning, {.client_id = "c", .start = &dense});
  const TensorSpec& a = *layout_->Find(absl::StrCat(kQuery, ".lora_A.weight"));
  EXPECT_TRUE(std::equal(dense.tensor(a).begin(), dense.tensor(a).end(), result.adapter.tensor(a).begin()));
}

TEST(PrunedRankTest, RoundsDownAndKeepsOne) {
  proto::RankPruning pruning;
  pruning.set_gamma(0.99);
  EXPECT_EQ(PrunedRank(pruning, 8), 7);
  EXPECT_EQ(PrunedRank(pruning, 1), 1);
  pruning.set_gamma(0.5);
  EXPECT_EQ(PrunedRank(pruning, 8), 4);
  pruning.set_gamma(1);
  EXPECT_EQ(PrunedRank(pruning, 8), 8);
}

TEST_F(PrimitivesTest, AddToBase_EqualsMergedWeights) {
  const Adapter start = Dense(Start()), first = SmallStep(), second = SmallStep(-0.2);
  const double before = LossOf(*trainer_, start);
  EXPECT_EQ(trainer_->base_round("j"), 0);
  ASSERT_TRUE(trainer_->AddToBase("j", 1, first).ok());
  ASSERT_TRUE(trainer_->AddToBase("j", 2, second).ok());
  EXPECT_EQ(trainer_->base_round("j"), 2);
  const auto merged = Merged({&first, &second}), perturbed = Merged({&first, &second}, 8.01);
  const double found = LossOf(*trainer_, start);
  EXPECT_NEAR(found, LossOf(*merged, start), 2e-6);  // measured 1e-7 of a sum of 22
  EXPECT_GT(std::abs(found - LossOf(*perturbed, start)), 2e-6);
  EXPECT_GT(std::abs(found - before), 0.01);
  // Gradients pass through the changed weights as well.
  const proto::Plan plan = WithSgd(Plan(3), 0.1);
  const TrainResult here = Train(plan, {.client_id = "c", .start = &start});
  trainer_->ResetBase("j");
  EXPECT_EQ(trainer_->base_round("j"), 0);
  EXPECT_EQ(LossOf(*trainer_, start), before);
  const CohortMember member = {.client_id = "c", .start = &start, .shard = shard_.get(), .seed = 7};
  const auto there = merged->Train(plan, {&member, 1}, Go), elsewhere = perturbed->Train(plan, {&member, 1}, Go);
  EXPECT_LT(Deviation(here.adapter, there->at(0)->adapter, 0, start, start), 2e-7);  // measured 1.5e-8
  EXPECT_GT(Deviation(here.adapter, elsewhere->at(0)->adapter, 0, start, start), 2e-7);
}

TEST_F(PrimitivesTest, AddToBase_IsTheJobsAloneAndOutlivesPreparingAgain) {
  const Adapter start = Dense(Start()), step = SmallStep();
  proto::JobOffer other = Job();
  other.set_job_id("other");
  ASSERT_TRUE(trainer_->PrepareJob(other).ok());
  const double before = LossOf(*trainer_, start);
  ASSERT_TRUE(trainer_->AddToBase("j", 1, step).ok());
  const double after = LossOf(*trainer_, start);
  EXPECT_NE(after, before);
  EXPECT_EQ(LossOf(*trainer_, start, "other"), before);
  EXPECT_EQ(trainer_->base_round("other"), 0);
  ASSERT_TRUE(trainer_->PrepareJob(Job()).ok());
  EXPECT_EQ(trainer_->base_round("j"), 1);
  EXPECT_EQ(LossOf(*trainer_, start), after);
}

TEST_F(PrimitivesTest, AddToBase_SameStepsSameBits) {
  const Adapter start = Dense(Start()), first = SmallStep(), second = SmallStep(-0.2);
  const auto apply = [&] {
    trainer_->ResetBase("j");
    EXPECT_TRUE(trainer_->AddToBase("j", 1, first).ok());
    EXPECT_TRUE(trainer_->AddToBase("j", 2, second).ok());
    return Train(Plan(3), {.client_id = "c", .start = &start});
  };
  EXPECT_TRUE(SameBits(apply().adapter, apply().adapter));
}

TEST_F(PrimitivesTest, AddToBase_RefusesRoundsOutOfOrderAndUnknownJobs) {
  constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;
  const Adapter step = SmallStep();
  ExpectRefused(trainer_->AddToBase("j", 2, step), kPrecondition,
                "step of round 2, the last one applied is of round 0");
  ASSERT_TRUE(trainer_->AddToBase("j", 1, step).ok());
  ExpectRefused(trainer_->AddToBase("j", 1, step), kPrecondition,
                "step of round 1, the last one applied is of round 1");
  ExpectRefused(trainer_->AddToBase("j", 3, step), kPrecondition,
                "step of round 3, the last one applied is of round 1");
  ExpectRefused(trainer_->AddToBase("nobody", 1, step), kPrecondition, "job nobody was not prepared");
  EXPECT_EQ(trainer_->base_round("nobody"), 0);
  trainer_->ResetBase("nobody");
}

TEST_F(PrimitivesTest, AddToBase_RefusesStepsThatDoNotFitAndChangesNothing) {
  const Adapter start = Dense(Start());
  const double before = LossOf(*trainer_, start);
  const std::string a = absl::StrCat(kQuery, ".base_A.weight"), b = absl::StrCat(kQuery, ".base_B.weight");
  const auto refusal = [&](const std::vector<TensorSpec>& specs) {
    return trainer_->AddToBase("j", 1, MakeStep(specs));
  };
  ExpectRefused(refusal({{"x", "head", {3}}}), kInvalid, "no tensors of roles base_a and base_b");
  ExpectRefused(refusal({{a, "base_a", {1, 24}}}), kInvalid, "base_A.weight comes without its partner");
  ExpectRefused(refusal({{b, "base_b", {24, 1}}}), kInvalid, "base_B.weight comes without its partner");
  ExpectRefused(refusal({{a, "base_a", {1, 24}}, {b, "base_a", {24, 1}}}), kInvalid, "without its partner");
  ExpectRefused(refusal({{"mm.base_A.weight", "base_a", {1, 24}}, {"mm.base_B.weight", "base_b", {24, 1}}}), kInvalid,
                "no linear module mm");
  ExpectRefused(refusal({{"odd", "base_a", {1, 24}}}), kInvalid, "must be named <module>.base_A.weight");
  ExpectRefused(refusal({{a, "base_a", {1, 24}}, {b, "base_b", {24, 2}}}), kInvalid, "expected [R, 24] and [24, R]");
  ExpectRefused(refusal({{a, "base_a", {1, 23}}, {b, "base_b", {24, 1}}}), kInvalid, "[1, 23]");
  ExpectRefused(refusal({{a, "base_a", {24}}, {b, "base_b", {24, 1}}}), kInvalid, "expected [R, 24]");
  Adapter nan = SmallStep();
  nan.values()[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(trainer_->AddToBase("j", 1, nan).code(), kInvalid);
  EXPECT_EQ(trainer_->base_round("j"), 0);
  EXPECT_EQ(LossOf(*trainer_, start), before);
}

TEST_F(PrimitivesTest, Train_RefusesBadTerms) {
  proto::Plan plan = Plan(1);
  plan.set_proximal_mu(-1);
  ExpectRefused(Refusal(plan), kInvalid, "proximal_mu is -1");
  plan.set_proximal_mu(std::nan(""));
  ExpectRefused(Refusal(plan), kInvalid, "proximal_mu is nan");
  plan = Plan(1);
  (*plan.mutable_learning_rate_scale())["prompt"] = 1;
  ExpectRefused(Refusal(plan), kInvalid, "learning_rate_scale names \"prompt\"; the layout's roles are head, lora_a");
  plan = Plan(1);
  (*plan.mutable_learning_rate_scale())["head"] = -2;
  ExpectRefused(Refusal(plan), kInvalid, "learning_rate_scale of head is -2");
  for (const auto& [lambda, gamma] : std::vector<std::pair<double, double>>{{-1, 0.5}, {1, 0}, {1, 1.5}}) {
    plan = Plan(1);
    plan.mutable_rank_pruning()->set_lambda(lambda);
    plan.mutable_rank_pruning()->set_gamma(gamma);
    ExpectRefused(Refusal(plan), kInvalid, absl::StrCat("lambda ", lambda, " and gamma ", gamma));
  }
}

TEST_F(PrimitivesTest, Train_RefusesBadMembers) {
  ExpectRefused(Refusal(Plan(1), {.client_id = "c", .rank = 3}), kInvalid,
                "client c: rank is 3, expected 0 (all) to 2");
  ExpectRefused(Refusal(Plan(1), {.client_id = "c", .rank = -1}), kInvalid, "rank is -1");
  const Adapter foreign = MakeStep({{"x", "head", {3}}}), misshapen = MakeStep({{"classifier.bias", "head", {4}}});
  ExpectRefused(Refusal(Plan(1), {.client_id = "c", .control = &foreign}), kInvalid,
                "control tensor x [3], the job's layout has no such");
  ExpectRefused(Refusal(Plan(1), {.client_id = "c", .control = &misshapen}), kInvalid,
                "classifier.bias [4], the job's tensor is [3]");
}

}  // namespace
}  // namespace weft
