#include "cli/job_file.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "adapters/forms/form.h"
#include "adapters/peft_folder.h"
#include "client/testing/test_folders.h"
#include "common/file.h"

namespace weft::cli {
namespace {

class JobFileTest : public testing::Test {
 protected:
  JobFileTest() : folder_(MakeTestFolder("job")) {
    WriteTestBase(base());
    Write("labels.txt", "red\ngreen\nblue\n");
  }
  std::string base() const { return absl::StrCat(folder_, "/base"); }
  std::string Path(const std::string& name) const { return absl::StrCat(folder_, "/", name); }
  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(Path(name), text).ok());
  }

  // A good job; `more` is appended.
  absl::StatusOr<LoadedJob> Load(const std::vector<std::string>& overrides = {}, const std::string& more = "") {
    Write("job.yaml", absl::StrCat("name: demo\nbase: {path: ", base(), "}\ntask: {labels_file: ", Path("labels.txt"),
                                   "}\nadapter:\n  form: lora\n  config: {rank: 2, target_modules: [query]}\n", more));
    return LoadJob(Path("job.yaml"), overrides);
  }
  void ExpectError(const absl::StatusOr<LoadedJob>& job, absl::StatusCode code, const std::string& text) {
    EXPECT_EQ(job.status().code(), code) << job.status();
    EXPECT_TRUE(absl::StrContains(job.status().message(), text)) << job.status();
  }

  const std::string folder_;
};

TEST_F(JobFileTest, LoadJob_ReadsWhatTheFileNames) {
  const auto job = Load({"stop.rounds=3"});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->config.base().hash(), *HashBase(base()));
  EXPECT_EQ(job->config.base().config_json(), *ReadFile(absl::StrCat(base(), "/config.json")));
  EXPECT_EQ(job->config.task().labels_size(), 3);
  EXPECT_EQ(job->config.task().labels(2), "blue");
  EXPECT_EQ(job->config.stop().rounds(), 3);
  EXPECT_FALSE(job->warm_start.has_value());
}

TEST_F(JobFileTest, LoadJob_MissingFile) {
  ExpectError(LoadJob(Path("nosuch.yaml"), {}), absl::StatusCode::kNotFound, "nosuch.yaml");
}

TEST_F(JobFileTest, LoadJob_UnknownKey) {
  ExpectError(Load({}, "ronds: 3\n"), absl::StatusCode::kInvalidArgument, "ronds");
}

TEST_F(JobFileTest, LoadJob_ValueOutOfRange) {
  ExpectError(Load({"training.batch_size=0"}), absl::StatusCode::kInvalidArgument, "batch_size");
}

TEST_F(JobFileTest, LoadJob_MissingBase) {
  ExpectError(Load({absl::StrCat("base.path=", Path("nosuch"))}), absl::StatusCode::kNotFound, "base.path");
}

TEST_F(JobFileTest, LoadJob_NoBasePath) {
  Write("job.yaml", "name: demo\nbase: {}\ntask: {labels: [a, b]}\nadapter: {form: lora}\n");
  ExpectError(LoadJob(Path("job.yaml"), {}), absl::StatusCode::kInvalidArgument, "base");
}

TEST_F(JobFileTest, LoadJob_AnotherBaseHash) {
  ExpectError(Load({"base.hash=0000"}), absl::StatusCode::kInvalidArgument, "base.hash: found 0000");
}

TEST_F(JobFileTest, LoadJob_MissingLabelsFile) {
  std::filesystem::remove(Path("labels.txt"));
  ExpectError(Load(), absl::StatusCode::kNotFound, "task.labels_file");
}

TEST_F(JobFileTest, LoadJob_EmptyLabel) {
  Write("labels.txt", "red\n\nblue\n");
  ExpectError(Load(), absl::StatusCode::kInvalidArgument, "label 1 is empty");
}

TEST_F(JobFileTest, LoadJob_RepeatedLabel) {
  Write("labels.txt", "red\r\nblue\r\nred\r\n");
  ExpectError(Load(), absl::StatusCode::kInvalidArgument, "\"red\" is there twice");
}

TEST_F(JobFileTest, LoadJob_OneLabelIsNoTask) {
  Write("labels.txt", "red\n");
  ExpectError(Load(), absl::StatusCode::kInvalidArgument, "expected at least 2");
}

TEST_F(JobFileTest, LoadJob_TasksWithoutLabels) {
  const auto job = Load({"task={type: sentence_embedding, embedding: {pooling: first}}"});
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->config.task().labels_size(), 0);
  EXPECT_EQ(job->config.task().embedding().pooling(), "first");
}

TEST_F(JobFileTest, LoadJob_LabelsTwice) {
  ExpectError(Load({"task.labels=[a, b]"}), absl::StatusCode::kInvalidArgument, "labels");
}

TEST_F(JobFileTest, LoadJob_ReadsTheWarmStart) {
  const auto plain = Load();
  ASSERT_TRUE(plain.ok()) << plain.status();
  const BaseDescription description = *DescribeBase(plain->config.base().config_json());
  const auto layout = *MakeLayout(plain->config.adapter(), plain->config.task(), description);
  Adapter adapter(layout);
  adapter.values()[3] = 1.5f;
  ASSERT_TRUE(WritePeftFolder(Path("warm"), adapter,
                              {.adapter = plain->config.adapter(),
                               .task = plain->config.task(),
                               .base = description,
                               .base_name = base(),
                               .base_hash = ""})
                  .ok());
  const auto job = Load({absl::StrCat("warm_start=", Path("warm"))});
  ASSERT_TRUE(job.ok()) << job.status();
  ASSERT_TRUE(job->warm_start.has_value());
  EXPECT_EQ(job->warm_start->ContentHash(), adapter.ContentHash());
  // A folder of another rank does not fit.
  EXPECT_FALSE(Load({absl::StrCat("warm_start=", Path("warm")), "adapter.config.rank=4"}).ok());
  ExpectError(Load({absl::StrCat("warm_start=", Path("warm")), "adapter.config.alpha=3.5"}),
              absl::StatusCode::kInvalidArgument, "scale");
}

TEST_F(JobFileTest, LoadJob_MissingWarmStart) {
  ExpectError(Load({absl::StrCat("warm_start=", Path("nosuch"))}), absl::StatusCode::kNotFound, "warm_start");
}

}  // namespace
}  // namespace weft::cli
