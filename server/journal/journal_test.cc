#include "server/journal/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "server/testing/disk_full.h"

namespace weft::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::shared_ptr<const Layout> SmallLayout() { return *Layout::Create({TensorSpec{"t", "head", {4}}}); }

Adapter Filled(float value) {
  Adapter adapter(SmallLayout());
  for (float& x : adapter.values()) x = value;
  return adapter;
}

CommittedRound Round(int64_t number) {
  CommittedRound round;
  round.status.set_round(number);
  round.status.set_updates(number * 10);
  return round;
}

proto::Update UpdateOf(const std::string& client) {
  proto::Update update;
  update.set_client_id(client);
  update.set_examples(7);
  return update;
}

class JournalTest : public testing::Test {
 protected:
  JournalTest() : folder_(testing::TempDir() + "/" + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(folder_);
    std::filesystem::remove_all(folder_ + "-copy");
    Open();
  }

  void Open() {
    journal_.reset();
    auto journal = Journal::Open(folder_);
    ASSERT_TRUE(journal.ok()) << journal.status();
    journal_ = *std::move(journal);
  }

  // As if the process had been killed now: opens a copy of the folder.
  std::vector<StoredJob> LoadAfterKill() {
    std::filesystem::remove_all(folder_ + "-copy");
    std::filesystem::copy(folder_, folder_ + "-copy", std::filesystem::copy_options::recursive);
    auto journal = Journal::Open(folder_ + "-copy");
    EXPECT_TRUE(journal.ok()) << journal.status();
    auto jobs = (*journal)->Load();
    EXPECT_TRUE(jobs.ok()) << jobs.status();
    for (const StoredJob& job : *jobs) {
      for (const auto* kept : {&job.states, &job.base_steps}) {
        for (const auto& [round, at] : *kept) EXPECT_TRUE((*journal)->tensors().Get(at.hash, at.layout).ok());
      }
      for (const auto& [client, at] : job.update_tensors) {
        EXPECT_TRUE((*journal)->tensors().GetBytes(at.hash).ok());
      }
    }
    return *std::move(jobs);
  }

  std::string Put(float value) { return journal_->tensors().Put(Filled(value))->hash(); }
  bool Kept(float value) { return std::filesystem::exists(folder_ + "/tensors/" + Filled(value).ContentHash()); }

  void AddJob(const std::string& id) {
    StoredJob job;
    job.id = id;
    job.config.set_name("name");
    job.submitted = absl::FromUnixSeconds(1000);
    const auto pin = journal_->tensors().Put(Filled(0));
    job.states[0] = {pin->hash(), SmallLayout()};
    ASSERT_TRUE(journal_->AddJob(job).ok());
  }
  void OpenAttempt() {
    ASSERT_TRUE(
        journal_->OpenAttemptOf("j", {"a", "b"}, absl::FromUnixSeconds(1001), absl::FromUnixSeconds(1002)).ok());
  }
  void Update(const std::string& client, float value) {
    const auto pin = journal_->tensors().Put(Filled(value));
    ASSERT_TRUE(journal_->AddUpdate("j", UpdateOf(client), {pin->hash(), "int8"}).ok());
  }
  void Commit(int64_t round, float value, int64_t best) {
    const auto pin = journal_->tensors().Put(Filled(value));
    ASSERT_TRUE(journal_->CommitRound("j", Round(round), {{pin->hash(), SmallLayout()}, std::nullopt}, best).ok());
  }
  // The state of each round is laid out anew.
  void CommitWithStep(int64_t round, float value, int64_t best) {
    const auto layout = *Layout::Create({TensorSpec{"t", "head", {4}}, TensorSpec{"b", "base_a", {round}}});
    Adapter state(layout);
    for (float& x : state.values()) x = value;
    Adapter step(*Layout::Create({TensorSpec{"b", "base_a", {round}}}));
    for (float& x : step.values()) x = value;
    const auto state_pin = journal_->tensors().Put(state);
    const auto step_pin = journal_->tensors().Put(step);
    const RoundTensors tensors{{state_pin->hash(), layout}, StoredTensors{step_pin->hash(), step.layout_ptr()}};
    ASSERT_TRUE(journal_->CommitRound("j", Round(round), tensors, best).ok());
  }
  // Round and hash of what is kept.
  static std::map<int64_t, std::string> HashesOf(const std::map<int64_t, StoredTensors>& kept) {
    std::map<int64_t, std::string> hashes;
    for (const auto& [round, at] : kept) hashes[round] = at.hash;
    return hashes;
  }

  std::string folder_;
  std::unique_ptr<Journal> journal_;
};

TEST_F(JournalTest, Load_EmptyAtFirst) {
  EXPECT_TRUE(LoadAfterKill().empty());
  EXPECT_EQ(*journal_->CountJobs(), 0);
}

TEST_F(JournalTest, AddJob_SurvivesAKillInOrder) {
  AddJob("z");
  AddJob("a");
  const std::vector<StoredJob> jobs = LoadAfterKill();
  ASSERT_EQ(jobs.size(), 2u);
  EXPECT_EQ(jobs[0].id, "z");
  EXPECT_EQ(jobs[0].config.name(), "name");
  EXPECT_EQ(jobs[0].state, proto::WAITING);
  EXPECT_EQ(jobs[0].submitted, absl::FromUnixSeconds(1000));
  EXPECT_FALSE(jobs[0].ended.has_value());
  EXPECT_FALSE(jobs[0].history.started.has_value());
  EXPECT_EQ(jobs[1].id, "a");
  EXPECT_EQ(*journal_->CountJobs(), 2);
}

TEST_F(JournalTest, Attempt_SurvivesAKillWithItsUpdates) {
  AddJob("j");
  OpenAttempt();
  Update("b", 2);
  const StoredJob job = LoadAfterKill().at(0);
  EXPECT_EQ(job.state, proto::RUNNING);
  EXPECT_EQ(job.history.started, absl::FromUnixSeconds(1001));
  ASSERT_TRUE(job.history.open.has_value());
  EXPECT_THAT(job.history.open->cohort, ElementsAre("a", "b"));
  EXPECT_EQ(job.history.open->started, absl::FromUnixSeconds(1002));
  ASSERT_EQ(job.history.open->updates.size(), 1u);
  EXPECT_EQ(job.history.open->updates[0].client_id(), "b");
  EXPECT_EQ(job.history.open->updates[0].examples(), 7u);
  ASSERT_EQ(job.update_tensors.size(), 1u);
  EXPECT_EQ(job.update_tensors.at("b").hash, Filled(2).ContentHash());
  EXPECT_EQ(job.update_tensors.at("b").encoding, "int8");
}

TEST_F(JournalTest, Attempt_OfAnEmptyCohortSurvivesAKill) {
  AddJob("j");
  ASSERT_TRUE(journal_->OpenAttemptOf("j", {}, absl::FromUnixSeconds(1001), absl::FromUnixSeconds(1002)).ok());
  const StoredJob job = LoadAfterKill().at(0);
  ASSERT_TRUE(job.history.open.has_value());
  EXPECT_TRUE(job.history.open->cohort.empty());
}

TEST_F(JournalTest, DropAttempt_ForgetsUpdatesAndCountsIt) {
  AddJob("j");
  OpenAttempt();
  Update("b", 2);
  ASSERT_TRUE(journal_->DropAttempt("j", 3).ok());
  const StoredJob job = LoadAfterKill().at(0);
  EXPECT_FALSE(job.history.open.has_value());
  EXPECT_EQ(job.history.abandoned, 3);
  EXPECT_FALSE(Kept(2));
}

TEST_F(JournalTest, OpenAttemptOf_ReplacesOneStillOpen) {
  AddJob("j");
  OpenAttempt();
  Update("b", 2);
  OpenAttempt();
  EXPECT_TRUE(LoadAfterKill().at(0).history.open->updates.empty());
  EXPECT_FALSE(Kept(2));
}

TEST_F(JournalTest, CommitRound_KeepsInitialBestAndLast) {
  AddJob("j");
  for (int64_t round = 1; round <= 4; ++round) {
    OpenAttempt();
    Update("a", 100 + static_cast<float>(round));
    Commit(round, static_cast<float>(round), round <= 2 ? round - 1 : 2);
  }
  const StoredJob job = LoadAfterKill().at(0);
  ASSERT_EQ(job.history.rounds.size(), 4u);
  EXPECT_EQ(job.history.rounds[2].status.updates(), 30);
  EXPECT_EQ(job.history.rounds[2].evaluated, Evaluated::kNo);
  EXPECT_FALSE(job.history.open.has_value());
  EXPECT_EQ(HashesOf(job.states),
            (std::map<int64_t, std::string>{
                {0, Filled(0).ContentHash()}, {2, Filled(2).ContentHash()}, {4, Filled(4).ContentHash()}}));
  EXPECT_EQ(*job.states.at(4).layout, *SmallLayout());
  EXPECT_TRUE(job.base_steps.empty());
  EXPECT_FALSE(Kept(1));
  EXPECT_FALSE(Kept(3));
  EXPECT_FALSE(Kept(104));
}

TEST_F(JournalTest, CommitRound_OfTheSameValuesAsAnUpdateKeepsThem) {
  AddJob("j");
  OpenAttempt();
  Update("a", 5);
  Commit(1, 5, 0);
  EXPECT_TRUE(Kept(5));
  EXPECT_EQ(HashesOf(LoadAfterKill().at(0).states),
            (std::map<int64_t, std::string>{{0, Filled(0).ContentHash()}, {1, Filled(5).ContentHash()}}));
}

TEST_F(JournalTest, CommitRound_KeepsLayoutsAndAllStepsOfTheBase) {
  AddJob("j");
  for (int64_t round = 1; round <= 4; ++round) {
    OpenAttempt();
    CommitWithStep(round, static_cast<float>(round), 0);
  }
  ASSERT_TRUE(journal_->EndJob("j", proto::STOPPED, "by a user", absl::FromUnixSeconds(2000), 2).ok());
  const StoredJob job = LoadAfterKill().at(0);
  ASSERT_EQ(job.states.size(), 2u);
  EXPECT_EQ(job.states.at(4).layout->num_elements(), 8);
  ASSERT_EQ(job.base_steps.size(), 4u);
  EXPECT_EQ(job.base_steps.at(3).layout->num_elements(), 3);
  const auto step = journal_->tensors().Get(job.base_steps.at(3).hash, job.base_steps.at(3).layout);
  ASSERT_TRUE(step.ok()) << step.status();
  EXPECT_EQ(step->values()[2], 3);
}

TEST_F(JournalTest, SaveRound_ReplacesItsFacts) {
  AddJob("j");
  OpenAttempt();
  Commit(1, 1, 0);
  CommittedRound round = Round(1);
  round.status.set_accuracy(0.5);
  round.status.set_f1(0.25);
  round.evaluated = Evaluated::kFinal;
  ASSERT_TRUE(journal_->SaveRound("j", round).ok());
  const StoredJob job = LoadAfterKill().at(0);
  EXPECT_EQ(job.history.rounds.at(0).status.accuracy(), 0.5);
  EXPECT_EQ(job.history.rounds.at(0).status.f1(), 0.25);
  EXPECT_EQ(job.history.rounds.at(0).evaluated, Evaluated::kFinal);
}

TEST_F(JournalTest, EndJob_KeepsBestAndLastOnly) {
  AddJob("j");
  for (int64_t round = 1; round <= 3; ++round) {
    OpenAttempt();
    Commit(round, static_cast<float>(round), round - 1);
  }
  OpenAttempt();
  Update("a", 9);
  ASSERT_TRUE(journal_->EndJob("j", proto::STOPPED, "by a user", absl::FromUnixSeconds(2000), 2).ok());
  const StoredJob job = LoadAfterKill().at(0);
  EXPECT_EQ(job.state, proto::STOPPED);
  EXPECT_EQ(job.message, "by a user");
  EXPECT_EQ(job.ended, absl::FromUnixSeconds(2000));
  EXPECT_FALSE(job.history.open.has_value());
  EXPECT_FALSE(Kept(1));
  EXPECT_TRUE(Kept(2));
  EXPECT_TRUE(Kept(3));
  EXPECT_FALSE(Kept(9));
}

TEST_F(JournalTest, Open_TensorsWithoutFactsAreRemoved) {
  AddJob("j");
  Put(77);  // killed between the file and the row
  Open();
  EXPECT_FALSE(Kept(77));
  EXPECT_TRUE(Kept(0));
}

TEST_F(JournalTest, Open_SecondCoordinatorOnTheFolderIsRefused) {
  const absl::Status status = Journal::Open(folder_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("another process (coordinator or simulation) holds"));
}

TEST_F(JournalTest, Open_NewerVersionIsRefused) {
  journal_.reset();
  {
    auto database = Database::Open(folder_ + "/journal.db");
    ASSERT_TRUE((*database)->Execute("PRAGMA user_version = 99").ok());
  }
  const absl::Status status = Journal::Open(folder_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("version 99"));
}

TEST_F(JournalTest, Open_OlderVersionIsRefused) {
  journal_.reset();
  {
    auto database = Database::Open(folder_ + "/journal.db");
    ASSERT_TRUE((*database)->Execute("PRAGMA user_version = 1").ok());
  }
  const absl::Status status = Journal::Open(folder_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("version 1"));
  EXPECT_THAT(status.message(), HasSubstr("empty state folder"));
}

TEST_F(JournalTest, Load_UnreadableLayoutIsDataLoss) {
  for (const char* damage : {"x'ffffff'", "x''"}) {  // no message, and no tensors
    AddJob("j");
    journal_.reset();
    {
      auto database = Database::Open(folder_ + "/journal.db");
      ASSERT_TRUE((*database)->Execute(std::string("UPDATE jobs SET initial_layout = ") + damage).ok());
    }
    Open();
    const absl::Status status = journal_->Load().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(status.message(), HasSubstr("the layout of job j"));
    folder_ += "-next";
    std::filesystem::remove_all(folder_);
    Open();
  }
}

TEST_F(JournalTest, Open_GarbageIsDataLoss) {
  journal_.reset();
  std::filesystem::remove(folder_ + "/journal.db-wal");
  std::ofstream(folder_ + "/journal.db") << std::string(8192, 'g');
  EXPECT_EQ(Journal::Open(folder_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(JournalTest, Load_UnreadableFactsAreDataLoss) {
  AddJob("j");
  journal_.reset();
  {
    auto database = Database::Open(folder_ + "/journal.db");
    ASSERT_TRUE((*database)->Execute("UPDATE jobs SET config = x'ffffff'").ok());
  }
  Open();
  EXPECT_EQ(journal_->Load().status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(JournalTest, Load_MissingRoundIsDataLoss) {
  AddJob("j");
  OpenAttempt();
  Commit(2, 1, 0);
  const absl::Status status = journal_->Load().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("found round 2 of job j, expected round 1"));
}

TEST_F(JournalTest, AnyWrite_OnAFullDiskIsResourceExhaustedAndLosesNothing) {
  AddJob("j");
  OpenAttempt();
  Update("a", 1);
  {
    const DiskFull full;
    EXPECT_EQ(journal_->tensors().Put(Filled(5)).status().code(), absl::StatusCode::kResourceExhausted);
    const absl::Status status = journal_->AddUpdate("j", UpdateOf("b"), {Filled(1).ContentHash(), "f32"});
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    const RoundTensors tensors{{Filled(1).ContentHash(), SmallLayout()}, std::nullopt};
    EXPECT_EQ(journal_->CommitRound("j", Round(1), tensors, 0).code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_FALSE(Kept(5));
  EXPECT_EQ(LoadAfterKill().at(0).history.open->updates.size(), 1u);
  Update("b", 2);
  Commit(1, 3, 0);
  EXPECT_EQ(LoadAfterKill().at(0).history.rounds.size(), 1u);
}

}  // namespace
}  // namespace weft::server
