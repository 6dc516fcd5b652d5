#include "cli/weft_app.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <span>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "adapters/base.h"
#include "adapters/codec.h"
#include "adapters/forms/form.h"
#include "adapters/peft_folder.h"
#include "adapters/safetensors.h"
#include "cli/testing/fake_admin.h"
#include "client/testing/test_folders.h"
#include "common/exit_code.h"
#include "common/file.h"
#include "nlohmann/json.hpp"

namespace weft::cli {
namespace {

using nlohmann::json;

proto::CoordinatorStatus StatusOf(proto::JobState state, int64_t round) {
  proto::CoordinatorStatus status;
  proto::JobStatus& job = *status.add_jobs();
  job.set_job_id("job-7");
  job.set_state(state);
  job.set_round(round);
  job.set_rounds_total(3);
  return status;
}

class WeftAppTest : public testing::Test {
 protected:
  int Run(std::vector<std::string> words, bool terminal = false) {
    words.insert(words.begin(), "weft");
    words.insert(words.end(), {"--coordinator", admin_.address()});
    return RunBare(words, terminal);
  }
  int RunBare(const std::vector<std::string>& words, bool terminal = false) {
    out_.str("");
    err_.str("");
    return RunWeft(words, terminal, out_, err_);
  }
  // The error is one line.
  void ExpectError(const std::string& text) {
    const std::string line = err_.str();
    EXPECT_TRUE(absl::StrContains(line, text)) << line;
    EXPECT_EQ(line.find('\n'), line.size() - 1) << line;
    EXPECT_EQ(out_.str(), "");
  }
  std::vector<std::string> Lines() const { return absl::StrSplit(out_.str(), '\n', absl::SkipEmpty()); }

  // A job file in a new folder, with its base and labels.
  std::string WriteJob() {
    const std::string folder = MakeTestFolder("weft_app");
    WriteTestBase(folder + "/base");
    const std::string path = folder + "/job.yaml";
    EXPECT_TRUE(WriteFileAtomically(path, absl::StrCat("name: demo\nbase: {path: ", folder,
                                                       "/base}\ntask: {labels: [red, green]}\nadapter:\n  form: lora\n"
                                                       "  config: {rank: 2, target_modules: [query]}\n"))
                    .ok());
    return path;
  }

  FakeAdmin admin_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(WeftAppTest, Submit_PrintsTheId) {
  EXPECT_EQ(Run({"submit", WriteJob(), "--set", "stop.rounds=2"}), kExitOk) << err_.str();
  EXPECT_EQ(out_.str(), "job-7\n");
  ASSERT_EQ(admin_.submitted.size(), 1u);
  EXPECT_EQ(admin_.submitted[0].config().stop().rounds(), 2);
  EXPECT_FALSE(admin_.submitted[0].config().base().config_json().empty());
}

TEST_F(WeftAppTest, Submit_WatchGoesOn) {
  admin_.watches = {{StatusOf(proto::RUNNING, 1), StatusOf(proto::FINISHED, 3)}};
  EXPECT_EQ(Run({"submit", WriteJob(), "--watch", "--format", "json"}), kExitOk) << err_.str();
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(json::parse(lines[0]), json({{"job_id", "job-7"}}));
  EXPECT_EQ(json::parse(lines[2])["state"], "finished");
}

TEST_F(WeftAppTest, Submit_RefusedByTheCoordinator) {
  admin_.end = grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "adapter is larger than max_adapter_bytes");
  EXPECT_EQ(Run({"submit", WriteJob()}), kExitRefused);
  ExpectError("adapter is larger");
}

TEST_F(WeftAppTest, Submit_MissingFile) {
  EXPECT_EQ(Run({"submit", "/nowhere/job.yaml"}), kExitNotFound);
  ExpectError("/nowhere/job.yaml");
}

TEST_F(WeftAppTest, Submit_BadFile) {
  EXPECT_EQ(Run({"submit", WriteJob(), "--set", "nosuch=1"}), kExitUsage);
  ExpectError("nosuch");
}

TEST_F(WeftAppTest, List_TextAndJson) {
  admin_.status = StatusOf(proto::RUNNING, 1);
  EXPECT_EQ(Run({"list"}), kExitOk) << err_.str();
  EXPECT_EQ(Lines().size(), 2u);
  EXPECT_EQ(Run({"list", "--format", "json"}), kExitOk) << err_.str();
  EXPECT_EQ(json::parse(out_.str())["jobs"][0]["job_id"], "job-7");
}

TEST_F(WeftAppTest, Status_TextAndJson) {
  admin_.status = StatusOf(proto::RUNNING, 1);
  EXPECT_EQ(Run({"status", "job-7"}), kExitOk) << err_.str();
  EXPECT_EQ(admin_.asked_job, "job-7");
  EXPECT_TRUE(absl::StrContains(out_.str(), "job-7"));
  EXPECT_EQ(Run({"--format", "json", "status"}), kExitOk) << err_.str();
  EXPECT_EQ(admin_.asked_job, "");
  EXPECT_EQ(json::parse(out_.str())["jobs"][0]["round"], 1);
}

TEST_F(WeftAppTest, Status_UnknownJob) {
  admin_.end = grpc::Status(grpc::StatusCode::NOT_FOUND, "no job x");
  EXPECT_EQ(Run({"status", "x"}), kExitNotFound);
  ExpectError("no job x");
}

TEST_F(WeftAppTest, Status_NoCoordinator) {
  admin_.Stop();
  EXPECT_EQ(Run({"status"}), kExitUnavailable);
  ExpectError("no coordinator answers at 127.0.0.1");
}

TEST_F(WeftAppTest, Watch_EndsWithTheJobsExitCode) {
  for (const auto& [state, code] : std::vector<std::pair<proto::JobState, int>>{
           {proto::FINISHED, kExitOk}, {proto::STOPPED, kExitCancelled}, {proto::FAILED, kExitJobFailed}}) {
    admin_.watches = {{StatusOf(proto::RUNNING, 1), StatusOf(state, 2)}};
    admin_.watch_calls = 0;
    EXPECT_EQ(Run({"watch", "job-7"}), code) << err_.str();
    EXPECT_EQ(Lines().size(), 2u);
  }
}

TEST_F(WeftAppTest, Watch_ALineForEachChangeOnly) {
  proto::CoordinatorStatus more_bytes = StatusOf(proto::RUNNING, 1);
  more_bytes.mutable_jobs(0)->set_bytes_up(5);
  admin_.watches = {
      {StatusOf(proto::RUNNING, 1), more_bytes, StatusOf(proto::RUNNING, 2), StatusOf(proto::FINISHED, 3)}};
  EXPECT_EQ(Run({"watch", "job-7"}), kExitOk) << err_.str();
  EXPECT_EQ(Lines().size(), 3u);
}

TEST_F(WeftAppTest, Watch_TerminalDrawsOverTheLastBlock) {
  admin_.watches = {{StatusOf(proto::RUNNING, 1), StatusOf(proto::FINISHED, 3)}};
  EXPECT_EQ(Run({"watch", "job-7"}, /*terminal=*/true), kExitOk) << err_.str();
  EXPECT_TRUE(absl::StrContains(out_.str(), "\x1b[5F\x1b[J")) << out_.str();
}

TEST_F(WeftAppTest, Watch_GoesOnAfterTheCoordinatorCameBack) {
  admin_.watches = {{StatusOf(proto::RUNNING, 1)}, {StatusOf(proto::RUNNING, 2), StatusOf(proto::FINISHED, 3)}};
  admin_.watch_end = grpc::Status(grpc::StatusCode::UNAVAILABLE, "going down");
  EXPECT_EQ(Run({"watch", "job-7"}), kExitOk) << err_.str();
  EXPECT_EQ(Lines().size(), 3u);
}

TEST_F(WeftAppTest, Watch_DefaultsToTheJobThatRuns) {
  admin_.status = StatusOf(proto::FINISHED, 3);
  admin_.status.mutable_jobs(0)->set_job_id("old");
  *admin_.status.add_jobs() = StatusOf(proto::RUNNING, 1).jobs(0);
  admin_.watches = {{StatusOf(proto::FINISHED, 3)}};
  EXPECT_EQ(Run({"watch"}), kExitOk) << err_.str();
  EXPECT_EQ(admin_.asked_job, "job-7");
}

TEST_F(WeftAppTest, Watch_NoJobAtAll) {
  EXPECT_EQ(Run({"watch"}), kExitNotFound);
  ExpectError("no job to watch");
}

TEST_F(WeftAppTest, Watch_UnknownJob) {
  admin_.end = grpc::Status(grpc::StatusCode::NOT_FOUND, "no job x");
  EXPECT_EQ(Run({"watch", "x"}), kExitNotFound);
  ExpectError("no job x");
}

TEST_F(WeftAppTest, Stop_TextAndJson) {
  admin_.stopped = StatusOf(proto::STOPPED, 2).jobs(0);
  EXPECT_EQ(Run({"stop", "job-7"}), kExitOk) << err_.str();
  EXPECT_TRUE(absl::StrContains(out_.str(), "job-7 stopped"));
  EXPECT_EQ(Run({"stop", "job-7", "--format", "json"}), kExitOk) << err_.str();
  EXPECT_EQ(json::parse(out_.str())["job"]["state"], "stopped");
}

TEST_F(WeftAppTest, Export_WritesAFolderThatReadsBack) {
  ASSERT_EQ(Run({"submit", WriteJob()}), kExitOk) << err_.str();
  proto::ExportMessage message;
  message.mutable_info()->set_job_id("job-7");
  message.mutable_info()->set_round(2);
  message.mutable_info()->set_accuracy(0.25);
  const proto::JobConfig& config = admin_.submitted[0].config();
  *message.mutable_info()->mutable_config() = config;
  admin_.exported.push_back(message);
  const BaseDescription base = *DescribeBase(config.base().config_json());
  const auto layout = *MakeLayout(config.adapter(), config.task(), base);
  Adapter adapter(layout);
  adapter.values()[1] = 2.5f;
  AdapterEncoder encoder(adapter, 100);
  *message.mutable_header() = encoder.Header();
  admin_.exported.push_back(message);
  while (encoder.Next(message.mutable_chunk())) admin_.exported.push_back(message);

  const std::string folder = MakeTestFolder("weft_app_export");
  EXPECT_EQ(Run({"export", "job-7", "--which", "2", "--out", folder, "--format", "json"}), kExitOk) << err_.str();
  EXPECT_EQ(admin_.asked_which, "2");
  EXPECT_EQ(json::parse(out_.str()), json({{"job_id", "job-7"}, {"round", 2}, {"accuracy", 0.25}, {"folder", folder}}));
  const auto back = ReadPeftFolder(folder, layout, base, config.task().type());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->ContentHash(), adapter.ContentHash());

  admin_.exported.pop_back();
  EXPECT_EQ(Run({"export", "job-7", "--out", folder}), kExitDataLoss);
  ExpectError("export of job job-7");
  admin_.exported.clear();
  EXPECT_EQ(Run({"export", "job-7", "--out", folder}), kExitDataLoss);
}

TEST_F(WeftAppTest, Export_RoundThatIsNotKept) {
  admin_.end = grpc::Status(grpc::StatusCode::NOT_FOUND, "round 1 is not kept");
  EXPECT_EQ(Run({"export", "job-7", "--which", "1", "--out", "/nowhere"}), kExitNotFound);
  ExpectError("round 1 is not kept");
}

TEST_F(WeftAppTest, Merge_WritesTheBaseWithTheAdapter) {
  const std::string root = MakeTestFolder("weft_app_merge");
  const std::string base = root + "/base", adapter = root + "/adapter", out = root + "/out";
  WriteTestBase(base);
  const std::vector<float> ones(4 * 4, 1);
  const std::string query = "bert.encoder.layer.0.attention.self.query";
  ASSERT_TRUE(WriteSafetensors(base + "/model.safetensors",
                               {{query + ".weight", "F32", {4, 4}, std::as_bytes(std::span(ones))},
                                {query + ".bias", "F32", {4}, std::as_bytes(std::span(ones).first(4))}})
                  .ok());
  PeftFolderOptions options;
  options.adapter.set_form("lora");
  auto& fields = *options.adapter.mutable_config()->mutable_fields();
  fields["rank"].set_number_value(1);
  fields["target_modules"].mutable_list_value()->add_values()->set_string_value("query");
  options.task.set_type("sequence_classification");
  options.task.add_labels("no");
  options.base = *DescribeBase(*ReadFile(base + "/config.json"));
  Adapter values(*MakeLayout(options.adapter, options.task, options.base));
  std::fill(values.values().begin(), values.values().end(), 1.0f);
  options.base_hash = *HashBase(base);
  ASSERT_TRUE(WritePeftFolder(adapter, values, options).ok());

  const std::vector<std::string> words = {"merge", "--base", base, "--adapter", adapter, "--out", out};
  EXPECT_EQ(Run(words), kExitOk) << err_.str();
  EXPECT_EQ(out_.str(), absl::StrCat("model for sequence_classification written to ", out, "; tensors changed: 1\n"));
  EXPECT_TRUE(SafetensorsFile::Open(out + "/model.safetensors")->Find(query + ".weight").ok());
  EXPECT_EQ(Run(words), kExitRefused) << "something is there";
  ExpectError("expected a folder that is missing or empty");
  std::filesystem::remove_all(out);
  EXPECT_EQ(Run({"merge", "--base", base, "--adapter", adapter, "--out", out, "--format", "json"}), kExitOk);
  EXPECT_EQ(json::parse(out_.str()), json({{"task", "sequence_classification"}, {"tensors", 1}, {"folder", out}}));
}

TEST_F(WeftAppTest, Usage_HelpListsCommandsAndExitCodes) {
  EXPECT_EQ(RunBare({"weft", "--help"}), kExitOk);
  for (const char* word : {"submit", "watch", "export", "merge", "prepare", "generate", "sim", "Exit codes"}) {
    EXPECT_TRUE(absl::StrContains(out_.str(), word)) << word;
  }
}

TEST_F(WeftAppTest, Usage_Version) {
  EXPECT_EQ(RunBare({"weft", "--version"}), kExitOk);
  EXPECT_TRUE(absl::StartsWith(out_.str(), "weft "));
}

TEST_F(WeftAppTest, Usage_MistakesAreOneLineEach) {
  for (const std::vector<std::string>& words : {std::vector<std::string>{"weft"},
                                                {"weft", "nosuch"},
                                                {"weft", "list", "--format", "xml"},
                                                {"weft", "stop"},
                                                {"weft", "export", "j"},
                                                {"weft", "status", "--coordinator", "nowhere"},
                                                {"weft", "status", "--coordinator", "192.0.2.1:7400"},
                                                {"weft", "--insecure", "prepare"},
                                                {"weft", "--insecure", "generate"},
                                                {"weft", "--insecure", "sim"}}) {
    EXPECT_EQ(RunBare(words), kExitUsage) << err_.str();
    ExpectError("weft: ");
  }
}

// A bundle whose Python writes down what it was called with.
class PythonToolDeathTest : public testing::Test {
 protected:
  PythonToolDeathTest() : root_(std::filesystem::path(testing::TempDir()) / "bundle") {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    for (const char* folder : {"tools/prepare/weft_prepare", "tools/generate/weft_generate", ".venv/bin", "bin"}) {
      std::filesystem::create_directories(root_ / folder);
    }
    MakeProgram(".venv/bin/python", "#!/bin/sh\necho \"called with $*\" >&2\nexit 23\n");
  }
  void MakeProgram(const std::string& name, const std::string& text) {
    const std::string path = (root_ / name).string();
    ASSERT_TRUE(WriteFileAtomically(path, text).ok());
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  }
  int Run(std::vector<std::string> words) {
    words.insert(words.begin(), (root_ / "bin/weft").string());
    return RunWeft(words, /*terminal=*/false, std::cout, std::cerr);
  }

  const std::filesystem::path root_;
};

TEST_F(PythonToolDeathTest, Prepare_GetsItsArgumentsUntouched) {
  EXPECT_EXIT(Run({"prepare", "data.tsv", "--help"}), testing::ExitedWithCode(23),
              "called with -m weft_prepare data.tsv --help");
}

TEST_F(PythonToolDeathTest, Sim_RunsItsOwnBinary) {
  MakeProgram("bin/weft-sim", "#!/bin/sh\necho \"simulates $*\" >&2\nexit 24\n");
  EXPECT_EXIT(Run({"sim", "a.yaml", "--help"}), testing::ExitedWithCode(24), "simulates a.yaml --help");
}

TEST_F(PythonToolDeathTest, Generate_GetsTheBinaryToo) {
  MakeProgram("bin/weft-generate", "#!/bin/sh\n");
  EXPECT_EXIT(Run({"generate", "--prompt", "x"}), testing::ExitedWithCode(23),
              "called with -m weft_generate --binary .*/bin/weft-generate --prompt x");
}

}  // namespace
}  // namespace weft::cli
