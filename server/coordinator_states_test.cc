// States that are more than the job's adapter, and updates that are less than all of it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "adapters/factors.h"
#include "aggregators/core/state.h"
#include "server/testing/coordinator_fixture.h"
#include "server/testing/fake_rules.h"

namespace weft::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class CoordinatorStatesTest : public CoordinatorFixture {
 protected:
  static proto::JobConfig Job(const std::string& rule, int64_t rounds) {
    proto::JobConfig config = SmallJob(rounds);
    config.mutable_aggregator()->set_name(rule);
    return config;
  }
  // Two clients; works until the job is in this round.
  std::string Run(const proto::JobConfig& config, int64_t round) {
    Add("a");
    Add("b");
    const std::string job = Submit(config);
    while (JobOf(job).round() < round) EXPECT_TRUE(WorkOnce());
    return job;
  }
  absl::StatusOr<StateDownload> Step(const std::string& job, int64_t round) {
    proto::DownloadRequest request;
    request.set_job_id(job);
    request.set_client_id("a");
    request.set_round(round);
    request.set_base_step(true);
    return coordinator_->Download(request);
  }
  // out x in of the first module: what the clients hold, the steps of the base added up, without the scale.
  static std::vector<double> Product(const Adapter& from, const std::string& a_end, const std::string& b_end) {
    std::string module = from.layout().tensors()[0].name;
    module.resize(module.rfind('.', module.find("_A.weight")));
    const TensorSpec& a = *from.layout().Find(module + a_end);
    const TensorSpec& b = *from.layout().Find(module + b_end);
    const int64_t rank = a.shape[0], in = a.shape[1], out = b.shape[0];
    std::vector<double> product(out * in);
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        for (int64_t j = 0; j < rank; ++j) {
          product[o * in + i] += double{from.tensor(b)[o * rank + j]} * double{from.tensor(a)[j * in + i]};
        }
      }
    }
    return product;
  }
};

TEST_F(CoordinatorStatesTest, Download_RolesThatDidNotChangeAreNotSentAgain) {
  const std::string job = Run(Job("fake_alternating", 3), 3);
  Work();
  // Round 2 moves A; "head" never changes and is never sent again.
  EXPECT_THAT(Client("a").downloaded(), ElementsAre("lora_a"));
  const proto::JobStatus status = JobOf(job);
  const uint64_t factor = 2 * 2 * 8 * 4;  // A or B of both modules
  const uint64_t all = status.adapter_parameters() * 4;
  EXPECT_EQ(status.rounds(0).bytes_up(), 2 * factor) << "B alone";
  EXPECT_EQ(status.rounds(0).bytes_down(), 2 * all) << "the first download";
  EXPECT_EQ(status.rounds(1).bytes_down(), 2 * factor) << "B, changed by round 1";
  EXPECT_EQ(status.rounds(2).bytes_down(), 2 * factor) << "A, changed by round 2";
  EXPECT_EQ(ClientOf("a").bytes_down(), all + 2 * factor);
}

TEST_F(CoordinatorStatesTest, Download_TensorsOfTheCoordinatorStayThere) {
  Run(Job("fake_alternating", 2), 1);
  EXPECT_EQ(Client("a").held()->layout().Find("server.momentum"), nullptr);
}

TEST_F(CoordinatorStatesTest, Download_AfterARestartUnknownRoundsMeanAllRoles) {
  const std::string job = Run(Job("fake_alternating", 4), 3);
  KillAndReopen();
  FakeClient& a = Add("a");
  proto::DownloadRequest request;
  request.set_job_id(job);
  request.set_client_id("a");
  request.set_round(3);
  request.set_have_round(0);  // kept
  AnswerOffers();
  EXPECT_THAT(coordinator_->Download(request)->roles, ElementsAre("lora_a", "lora_b"));
  request.set_have_round(2);  // retired
  EXPECT_THAT(coordinator_->Download(request)->roles, IsEmpty());
  request.set_have_round(3);  // nothing is lacking: the smallest role, since none would be all
  EXPECT_THAT(coordinator_->Download(request)->roles, ElementsAre("head"));
  EXPECT_EQ(a.last_error(), absl::OkStatus());
}

TEST_F(CoordinatorStatesTest, Plan_SaysWhetherTheBroadcastHoldsAStep) {
  Add("a");
  Add("b");
  Submit(Job("fake_base", 2));
  const proto::Plan first = TakePlan("a");
  EXPECT_FALSE(first.base_residual());
  EXPECT_EQ(Client("a").Carry(first), absl::OkStatus());
  EXPECT_EQ(Client("b").Carry(TakePlan("b")), absl::OkStatus());
  for (const char* id : {"a", "b"}) {
    const proto::EvaluationPlan evaluation = TakeEvaluation(id);
    EXPECT_TRUE(evaluation.base_residual());
    EXPECT_EQ(Client(id).Evaluate(evaluation), absl::OkStatus());
  }
  EXPECT_TRUE(TakePlan("a").base_residual());
}

TEST_F(CoordinatorStatesTest, BaseStep_OfEveryCommittedRoundAlsoAfterARestart) {
  const std::string job = Run(Job("fake_base", 5), 4);
  for (const bool restarted : {false, true}) {
    if (restarted) {
      KillAndReopen();
      Add("a");
    }
    for (int64_t round = 1; round <= 4; ++round) {
      const auto step = Step(job, round);
      ASSERT_TRUE(step.ok()) << step.status();
      EXPECT_EQ(step->layout->tensors()[0].shape[0], round);
      EXPECT_EQ(step->layout->tensors()[0].role, "base_a");
      EXPECT_EQ(step->state->layout(), *step->layout);
      EXPECT_EQ(step->state->values()[1], 0.125f * static_cast<float>(round + 1));
    }
    EXPECT_EQ(Step(job, 0).status().code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(Step(job, 5).status().code(), absl::StatusCode::kNotFound);
  }
}

TEST_F(CoordinatorStatesTest, BaseStep_OfARuleWithoutStepsIsNotFound) {
  const std::string job = Run(SmallJob(2), 1);
  const absl::Status status = Step(job, 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("made no step of the base"));
}

TEST_F(CoordinatorStatesTest, BaseStep_BytesAreCounted) {
  const std::string job = Run(Job("fake_base", 3), 1);
  const uint64_t before = ClientOf("a").bytes_down();
  const auto step = Step(job, 1);
  ASSERT_TRUE(step.ok()) << step.status();
  EXPECT_EQ(ClientOf("a").bytes_down() - before, static_cast<uint64_t>(step->layout->size_bytes()));
}

TEST_F(CoordinatorStatesTest, Export_StandsForTheStepsOfAllRounds) {
  const std::string job = Run(Job("fake_base", 3), 2);
  while (JobOf(job).phase() != "training") ASSERT_TRUE(WorkOnce());
  ASSERT_TRUE(Client("a").Train(TakePlan("a")).ok());
  std::vector<double> expected = Product(*Client("a").held(), ".lora_A.weight", ".lora_B.weight");
  const std::vector<double> without_steps = expected;
  for (int64_t round = 1; round <= 2; ++round) {
    const std::vector<double> step = Product(*Step(job, round)->state, ".base_A.weight", ".base_B.weight");
    for (size_t i = 0; i < step.size(); ++i) expected[i] += step[i];
  }
  for (const bool restarted : {false, true}) {
    if (restarted) KillAndReopen();
    const auto exported = coordinator_->Export(job, "2");
    ASSERT_TRUE(exported.ok()) << exported.status();
    const std::vector<double> product = Product(*exported->adapter, ".lora_A.weight", ".lora_B.weight");
    ASSERT_EQ(product.size(), expected.size());
    double largest = 0;
    for (size_t i = 0; i < expected.size(); ++i) largest = std::max(largest, std::abs(product[i] - expected[i]));
    // Measured 0: the factors are copied, and these sums are short.
    EXPECT_LT(largest, 1e-15);
    EXPECT_GT(std::abs(product[0] - without_steps[0]), 0.01) << "the steps matter";
    const auto& fields = exported->info.config().adapter().config().fields();
    EXPECT_EQ(fields.at("rank").number_value(), 2 + 1 + 2);
    EXPECT_EQ(fields.at("alpha").number_value(), 2 * 5) << "the job's scale is 2";
    EXPECT_EQ(JobOf(job).config().adapter().config().fields().at("rank").number_value(), 2) << "the job's own";
  }
  EXPECT_EQ(coordinator_->Export(job, "0")->info.config().adapter().config().fields().at("rank").number_value(), 2);
}

TEST_F(CoordinatorStatesTest, WarmStart_BecomesTheInitialStateOfTheRule) {
  proto::JobConfig config = Job("fake_alternating", 1);
  config.set_warm_start("some/folder");
  Adapter warm(*coordinator_->LayoutFor(config));
  warm.values()[3] = 0.5f;
  Add("a");
  const std::string job = Submit(config, warm.Clone());
  EXPECT_EQ(HashOf(job, "0"), warm.ContentHash()) << "an export has no tensors of the rule";
}

TEST_F(CoordinatorStatesTest, Upload_EachEncodingCountsItsOwnBytesAndSurvivesAKill) {
  for (const char* values : {"f32", "bf16", "f16", "int8", "int4", "topk"}) {
    SCOPED_TRACE(values);
    proto::JobConfig config = SmallJob(2);
    config.mutable_encoding()->set_values(values);
    std::vector<std::string> hashes;
    for (const bool killed : {false, true}) {
      state_dir_ = base_dir_ + "/" + values + (killed ? "-killed" : "");
      Open();
      Add("a");
      Add("b");
      const std::string job = Submit(config);
      const proto::Plan plan = TakePlan("a");
      EXPECT_EQ(plan.encoding().values(), values);
      EXPECT_EQ(Client("a").Carry(plan), absl::OkStatus());
      if (killed) {
        KillAndReopen();
        EXPECT_EQ(JobOf(job).phase_done(), 1);
        Add("a");
        Add("b");
      }
      Work();
      EXPECT_EQ(JobOf(job).state(), proto::FINISHED) << JobOf(job).message();
      EXPECT_EQ(JobOf(job).rounds(0).updates(), 2);
      const auto layout = coordinator_->LayoutFor(config);
      const uint64_t bytes = EncodedBytes(**layout, *ParseEncoding(values), config.encoding().density());
      EXPECT_EQ(JobOf(job).rounds(0).bytes_up(), 2 * bytes);
      hashes.push_back(HashOf(job, "last"));
    }
    EXPECT_EQ(hashes[0], hashes[1]);
  }
}

TEST_F(CoordinatorStatesTest, BeginUpload_AnotherEncodingThanThePlansIsRefused) {
  Add("a");
  Add("b");
  proto::JobConfig config = SmallJob(1);
  config.mutable_encoding()->set_values("int8");
  Submit(config);
  proto::Plan plan = TakePlan("a");
  plan.mutable_encoding()->set_values("bf16");
  const absl::Status status = Client("a").Carry(plan);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("int8"));
}

TEST_F(CoordinatorStatesTest, Rank_ClientsTrainWhatTheyCan) {
  AddWith({.id = "a", .max_rank = 1});
  Add("b");
  const std::string job = Submit(Job("fake_ranks", 1));
  const proto::Plan small = TakePlan("a");
  const proto::Plan large = TakePlan("b");
  EXPECT_EQ(small.rank(), 1);
  EXPECT_EQ(large.rank(), 0) << "all";
  // One component fewer than asked is the client's choice; one more is not.
  proto::Plan more = small;
  more.set_rank(2);
  EXPECT_THAT(Client("a").Carry(more).message(), HasSubstr("found rank 2, expected 1 to 1"));
  proto::Plan fewer = large;
  fewer.set_rank(1);
  EXPECT_EQ(Client("b").Carry(fewer), absl::OkStatus());
  Work();
  EXPECT_EQ(JobOf(job).state(), proto::FINISHED);
  EXPECT_EQ(JobOf(job).rounds(0).updates(), 1);
}

TEST_F(CoordinatorStatesTest, Rank_MixedUpdatesSurviveAKill) {
  std::vector<std::string> hashes;
  for (const bool killed : {false, true}) {
    state_dir_ = base_dir_ + (killed ? "/killed" : "/undisturbed");
    Open();
    const auto add = [&] {
      AddWith({.id = "a", .max_rank = 1});
      AddWith({.id = "b", .max_rank = 2});
    };
    add();
    const std::string job = Submit(Job("fake_ranks", 2));
    EXPECT_EQ(Client("a").Carry(TakePlan("a")), absl::OkStatus());
    if (killed) {
      KillAndReopen();
      add();
    }
    Work();
    EXPECT_EQ(JobOf(job).rounds(1).updates(), 2);
    hashes.push_back(HashOf(job, "last"));
  }
  EXPECT_EQ(hashes[0], hashes[1]);
}

TEST_F(CoordinatorStatesTest, Rank_OfARuleThatTakesWholeFactorsOnly) {
  AddWith({.id = "small", .max_rank = 1});
  AddWith({.id = "odd", .max_rank = -1});
  AddWith({.id = "a", .max_rank = 2});
  Add("b");
  const std::string job = Submit(SmallJob(1));
  AnswerOffers();
  EXPECT_THAT(ClientOf("small").activity(), HasSubstr("refused: trains at most 1 components"));
  EXPECT_THAT(ClientOf("odd").activity(), HasSubstr("refused: found max_rank -1"));
  proto::Plan plan = TakePlan("a");
  EXPECT_EQ(plan.rank(), 0);
  plan.set_rank(1);
  EXPECT_THAT(Client("a").Carry(plan).message(), HasSubstr("found rank 1, expected 0 (all components)"));
  Work();
  EXPECT_EQ(JobOf(job).rounds(0).updates(), 1);
  EXPECT_THAT(Client("small").received(), Not(testing::Contains("train")));
}

TEST_F(CoordinatorStatesTest, Memory_KnownCohortIsRefusedAtSubmit) {
  config_.set_aggregation_memory_bytes(3 * kFakeBytesPerUpdate);
  Open();
  proto::JobConfig config = Job("fake_ranks", 1);
  config.mutable_selection()->set_rule("uniform");
  config.mutable_selection()->set_clients(4);
  const absl::Status status = coordinator_->Submit(config, std::nullopt).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("4194304 bytes in a round of 4 updates"));
  EXPECT_THAT(status.message(), HasSubstr("aggregation_memory_bytes of 3145728"));
  config.mutable_selection()->set_clients(3);
  EXPECT_TRUE(coordinator_->Submit(config, std::nullopt).ok());
  // Under rule all, those that are connected.
  for (const char* id : {"a", "b", "c", "d"}) Add(id);
  EXPECT_THAT(coordinator_->Submit(Job("fake_ranks", 1), std::nullopt).status().message(),
              HasSubstr("a round of 4 updates"));
}

TEST_F(CoordinatorStatesTest, Memory_ALargerCohortFailsTheJobWhenARoundOpens) {
  config_.set_aggregation_memory_bytes(3 * kFakeBytesPerUpdate);
  Open();
  const std::string job = Run(Job("fake_ranks", 3), 1);
  Add("c");
  Add("d");
  AnswerOffers();
  Work();
  EXPECT_EQ(JobOf(job).state(), proto::FAILED);
  EXPECT_EQ(JobOf(job).round(), 1);
  EXPECT_THAT(JobOf(job).message(), HasSubstr("round 2: rule fake_ranks may hold"));
  EXPECT_THAT(JobOf(job).message(), HasSubstr("aggregation_memory_bytes"));
}

TEST_F(CoordinatorStatesTest, Memory_ForNotOneUpdateIsRefused) {
  const auto layout = *coordinator_->LayoutFor(SmallJob(1));
  config_.set_upload_memory_bytes(layout->size_bytes() - 1);
  Open();
  EXPECT_THAT(coordinator_->Submit(SmallJob(1), std::nullopt).status().message(), HasSubstr("upload_memory_bytes"));
  proto::JobConfig narrow = SmallJob(1);
  narrow.mutable_encoding()->set_values("int8");
  EXPECT_TRUE(coordinator_->Submit(narrow, std::nullopt).ok());
}

TEST_F(CoordinatorStatesTest, Memory_ForWhatARuleAsksOfUpdatesFailsTheJobBeforeItWaitsForEver) {
  const auto layout = *coordinator_->LayoutFor(SmallJob(1));
  config_.set_upload_memory_bytes(layout->size_bytes());  // unpacking takes more
  Open();
  const std::string job = Submit(Job("fake_components", 1));
  EXPECT_EQ(JobOf(job).state(), proto::FAILED);
  EXPECT_THAT(JobOf(job).message(), HasSubstr("receiving one update of rule fake_components takes"));
}

TEST_F(CoordinatorStatesTest, BeginUpload_ExpectsTheComponentsThatThePlanAsksFor) {
  Add("a");
  Add("b");
  Submit(Job("fake_components", 1));
  const proto::Plan plan = TakePlan("a");
  EXPECT_EQ(plan.keep_components(), 2);
  const EncodedUpdate whole = *Client("a").Train(plan);
  const absl::Status status = Client("a").Upload(Client("a").UploadOf(plan, whole), whole.Clone());
  EXPECT_THAT(status.message(), HasSubstr("components: found all 8, expected at most 2"));
}

TEST_F(CoordinatorStatesTest, Fold_WhatComesWhileOneIsFoldedIsFoldedTogether) {
  std::vector<std::string> hashes;
  for (const bool gated : {false, true}) {
    state_dir_ = base_dir_ + (gated ? "/gated" : "/one-by-one");
    Open();
    proto::JobConfig config = Job("fake_gate", 1);
    config.mutable_selection()->set_min_ready(4);
    for (const char* id : {"a", "b", "c", "d"}) Add(id);
    const std::string job = Submit(config);
    std::map<std::string, proto::Plan> plans;
    for (const char* id : {"a", "b", "c", "d"}) plans[id] = TakePlan(id);
    FoldGate& gate = FoldGate::Global();
    gate.Close();
    if (!gated) gate.Open();
    std::vector<std::thread> uploads;
    for (const std::string id : {"a", "b", "c", "d"}) {
      uploads.emplace_back([&, id] { EXPECT_EQ(Client(id).Carry(plans[id]), absl::OkStatus()); });
      if (id == "a") gate.WaitForGroups(1);
      if (!gated) {
        uploads.back().join();
        continue;
      }
      for (uint64_t seen = 0; id != "a" && ClientOf(id).activity() != "checking";) {
        seen = coordinator_->WaitForChange(seen, absl::Hours(1));
      }
    }
    if (gated) {
      EXPECT_EQ(JobOf(job).phase_done(), 1);
      gate.Open();
      for (std::thread& upload : uploads) upload.join();
    }
    EXPECT_EQ(gate.groups(), gated ? (std::vector<size_t>{1, 3}) : (std::vector<size_t>{1, 1, 1, 1}));
    Work();
    EXPECT_EQ(JobOf(job).state(), proto::FINISHED);
    hashes.push_back(HashOf(job, "last"));
  }
  EXPECT_EQ(hashes[0], hashes[1]);
}

TEST_F(CoordinatorStatesTest, Fold_AfterAKillInGroupsThatFitTheUploadMemory) {
  const auto bytes = (*coordinator_->LayoutFor(SmallJob(1)))->size_bytes();
  for (const bool narrow : {false, true}) {
    state_dir_ = base_dir_ + (narrow ? "/narrow" : "/wide");
    config_.set_upload_memory_bytes(narrow ? 2 * bytes : 100 * bytes);
    Open();
    proto::JobConfig config = Job("fake_gate", 1);
    config.mutable_selection()->set_min_ready(4);
    for (const char* id : {"a", "b", "c", "d"}) Add(id);
    Submit(config);
    for (const char* id : {"a", "b", "c"}) EXPECT_EQ(Client(id).Carry(TakePlan(id)), absl::OkStatus());
    FoldGate::Global().Close();
    FoldGate::Global().Open();
    KillAndReopen();
    EXPECT_EQ(FoldGate::Global().groups(), narrow ? (std::vector<size_t>{2, 1}) : (std::vector<size_t>{3}));
  }
}

}  // namespace
}  // namespace weft::server
