#include "config/yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "proto/daemon.pb.h"
#include "proto/job.pb.h"

namespace weft::config {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr char kJob[] = R"(name: demo
base:
  path: /base
adapter:
  form: lora
  config: {rank: 2, target_modules: [query, "8"]}
task: {labels: [red, green]}
)";

absl::Status Parse(const std::string& text, proto::JobConfig* job, const std::vector<std::string>& overrides = {}) {
  return ParseYaml(text, "job.yaml", overrides, job);
}

void ExpectRefused(const absl::Status& status, const std::string& start, const std::string& part = "") {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(StartsWith(start), HasSubstr(part)));
}

// A good job with `more` from line 8 on.
absl::Status ParseMore(const std::string& more, const std::vector<std::string>& overrides = {}) {
  proto::JobConfig job;
  return Parse(absl::StrCat(kJob, more), &job, overrides);
}

proto::JobConfig Good(const std::string& more, const std::vector<std::string>& overrides = {}) {
  proto::JobConfig job;
  const absl::Status status = Parse(absl::StrCat(kJob, more), &job, overrides);
  EXPECT_TRUE(status.ok()) << status;
  return job;
}

TEST(YamlTest, ParseYaml_FillsTheMessage) {
  const proto::JobConfig job = Good(
      "training: {learning_rate: 1e-4, batch_size: 8, optimizer: sgd}\nround: {progress_timeout: 500ms}\n"
      "seed: 18446744073709551615\nstop: {time: 2m, target_accuracy: .5}\n");
  EXPECT_EQ(job.name(), "demo");
  EXPECT_EQ(job.base().path(), "/base");
  EXPECT_THAT(job.task().labels(), ElementsAre("red", "green"));
  EXPECT_EQ(job.training().learning_rate(), 1e-4);
  EXPECT_EQ(job.training().batch_size(), 8);
  EXPECT_EQ(job.training().optimizer(), "sgd");
  EXPECT_EQ(job.round().progress_timeout().nanos(), 500'000'000);
  EXPECT_EQ(job.seed(), 18446744073709551615u);
  EXPECT_EQ(job.stop().time().seconds(), 120);
  EXPECT_EQ(job.stop().target_accuracy(), 0.5);
}

TEST(YamlTest, ParseYaml_AppliesDefaults) {
  const proto::JobConfig job = Good("");
  EXPECT_EQ(job.training().batch_size(), 32);
  EXPECT_EQ(job.round().progress_timeout().seconds(), 60);
  EXPECT_EQ(job.aggregator().name(), "fedavg");
}

TEST(YamlTest, ParseYaml_UnquotedNumbersAreTextWhereTextIsWanted) {
  const proto::JobConfig job = Good("", {"name=007"});
  EXPECT_EQ(job.name(), "007");
}

TEST(YamlTest, ParseYaml_StructTakesAnyMapping) {
  const auto fields = Good(
                          "aggregator:\n"
                          "  config: {a: 1.5, b: -2, c: true, d: yes, e: '3', f: null, g: [1, {h: x}], i: 2m, j: '',\n"
                          "           k: \"true\", l: 1e3, m: 1.2.3, n: !!str 4, o: [], p: {}, q: -}\n")
                          .aggregator()
                          .config()
                          .fields();
  EXPECT_EQ(fields.at("a").number_value(), 1.5);
  EXPECT_EQ(fields.at("b").number_value(), -2);
  EXPECT_TRUE(fields.at("c").bool_value());
  EXPECT_EQ(fields.at("d").string_value(), "yes");
  EXPECT_EQ(fields.at("e").string_value(), "3");
  EXPECT_TRUE(fields.at("f").has_null_value());
  EXPECT_EQ(fields.at("g").list_value().values(0).number_value(), 1);
  EXPECT_EQ(fields.at("g").list_value().values(1).struct_value().fields().at("h").string_value(), "x");
  EXPECT_EQ(fields.at("i").string_value(), "2m");
  EXPECT_TRUE(fields.at("j").has_string_value());
  EXPECT_EQ(fields.at("k").string_value(), "true");
  EXPECT_EQ(fields.at("l").number_value(), 1000);
  EXPECT_EQ(fields.at("m").string_value(), "1.2.3");
  EXPECT_EQ(fields.at("n").string_value(), "4");
  EXPECT_TRUE(fields.at("o").has_list_value());
  EXPECT_TRUE(fields.at("p").has_struct_value());
  EXPECT_EQ(fields.at("q").string_value(), "-");
}

TEST(YamlTest, ParseYaml_EmptySectionIsNoMistake) {
  EXPECT_EQ(Good("training:\n  # batch_size: 4\naggregator: {config: }\n").training().batch_size(), 32);
}

TEST(YamlTest, ParseYaml_AnchorsAndAliases) {
  const proto::JobConfig job = Good("evaluation: {rows: &n 7, final_rows: *n}\n");
  EXPECT_EQ(job.evaluation().final_rows(), 7);
}

TEST(YamlTest, ParseYaml_UnknownKeyNamesPlaceAndNearest) {
  ExpectRefused(ParseMore("ronds: 3\n"), "job.yaml:8: ronds: found an unknown key", "did you mean \"round\"?");
  ExpectRefused(ParseMore("training:\n  steps: 1\n  batchsize: 3\n"),
                "job.yaml:10: training.batchsize: found an unknown key", "did you mean \"batch_size\"?");
}

TEST(YamlTest, ParseYaml_RepeatedKey) {
  ExpectRefused(ParseMore("name: again\n"), "job.yaml:8: name: found the key a second time");
  ExpectRefused(ParseMore("training:\n  steps: 1\n  steps: 2\n"),
                "job.yaml:10: training.steps: found the key a second");
  ExpectRefused(ParseMore("aggregator:\n  config:\n    mu: 1\n    mu: 1\n"),
                "job.yaml:11: aggregator.config.mu: found the key a second time");
}

TEST(YamlTest, ParseYaml_WrongKinds) {
  const std::pair<const char*, const char*> cases[] = {
      {"training: 3\n", "job.yaml:8: training: found \"3\", expected a mapping"},
      {"training: [3]\n", "job.yaml:8: training: found a list, expected a mapping"},
      {"training: {steps: two}\n", "job.yaml:8: training.steps: found \"two\", expected a whole number"},
      {"training: {steps: 2.5}\n", "job.yaml:8: training.steps: found \"2.5\", expected a whole number"},
      {"training: {steps: '2'}\n", "job.yaml:8: training.steps: found the text \"2\", expected a whole number without"},
      {"training: {steps: [2]}\n", "job.yaml:8: training.steps: found a list, expected a whole number"},
      {"training: {steps: }\n", "job.yaml:8: training.steps: found nothing, expected a whole number"},
      {"training: {learning_rate: .nan}\n", "job.yaml:8: training.learning_rate: found \".nan\", expected a finite"},
      {"training: {learning_rate: inf}\n", "job.yaml:8: training.learning_rate: found \"inf\", expected a finite"},
      {"round: {progress_timeout: 30}\n", "job.yaml:8: round.progress_timeout: found \"30\", expected a duration"},
      {"round: {progress_timeout: {seconds: 3}}\n", "job.yaml:8: round.progress_timeout: found a mapping, expected"},
      {"warm_start: {a: b}\n", "job.yaml:8: warm_start: found a mapping, expected text"},
      {"aggregator: {config: [a]}\n", "job.yaml:8: aggregator.config: found a list, expected a mapping"},
      {"aggregator: {config: {seed: 9007199254740993}}\n",
       "job.yaml:8: aggregator.config.seed: found 9007199254740993"},
      {"aggregator: {config: {seed: 1e999}}\n", "job.yaml:8: aggregator.config.seed: found 1e999"},
      {"[a, b]: 3\n", "job.yaml:8: found a list as a key, expected a name"},
  };
  for (const auto& [text, message] : cases) ExpectRefused(ParseMore(text), message);
  proto::JobConfig job;
  ExpectRefused(Parse("name: x\ntask:\n  labels: red\n", &job),
                "job.yaml:3: task.labels: found \"red\", expected a list such as [a, b]");
  ExpectRefused(Parse("name: x\ntask:\n  labels: [red,\n    {a: b}]\n", &job),
                "job.yaml:4: task.labels[1]: found a mapping, expected text");
  ExpectRefused(Parse("- a\n", &job), "job.yaml:1: found a list, expected a mapping");
}

TEST(YamlTest, ParseYaml_ValueOutOfRange) {
  ExpectRefused(ParseMore("\ntraining:\n  steps: 1\n  batch_size: 0\n"),
                "job.yaml:11: training.batch_size: found 0, expected a value at least 1");
  ExpectRefused(ParseMore("selection: {rule: lottery}\n"),
                "job.yaml:8: selection.rule: found \"lottery\", expected one of all, uniform, poisson");
  ExpectRefused(ParseMore("round: {progress_timeout: 1ms}\n"), "job.yaml:8: round.progress_timeout: found 0.001s");
}

TEST(YamlTest, ParseYaml_MissingRequiredField) {
  proto::JobConfig job;
  ExpectRefused(Parse("\nbase: {path: /b}\n", &job), "job.yaml:2: name: found nothing, expected a value");
  job.Clear();
  ExpectRefused(Parse("name: x\nbase: {}\n", &job), "job.yaml:2: base: found nothing, expected a value");
  for (const char* empty : {"", "# nothing\n", "---\n"}) {
    proto::CoordinatorConfig coordinator;
    ExpectRefused(ParseYaml(empty, "c.yaml", {}, &coordinator), "c.yaml:1: state_dir: found nothing");
  }
}

TEST(YamlTest, ParseYaml_NotYaml) {
  ExpectRefused(ParseMore("training: {steps: 3\nstop: 4\n"), "job.yaml:", "found no valid YAML (");
  ExpectRefused(ParseMore("  bad: indent\n"), "job.yaml:8: found no valid YAML (");
  ExpectRefused(ParseMore("warm_start: *nosuch\n"), "job.yaml:8: found no valid YAML (");
}

TEST(YamlTest, ParseYaml_TwoDocuments) {
  ExpectRefused(ParseMore("---\nname: other\n"), "job.yaml:9: found a second document");
}

TEST(YamlTest, ParseYaml_EndlessAlias) {
  ExpectRefused(ParseMore("aggregator: {config: &a {again: *a}}\n"), "job.yaml:8: aggregator.config.again.again",
                "more than 64 levels");
}

TEST(YamlTest, Override_ReplacesValues) {
  const proto::JobConfig job = Good("training: {batch_size: 8, steps: 4}\n",
                                    {"training.batch_size=16", "task.labels=[a, b, c]", "round.progress_timeout=1h",
                                     "name=x=y", "base.path='/a b'", "stop.rounds=5", "stop.rounds=6"});
  EXPECT_EQ(job.training().batch_size(), 16);
  EXPECT_EQ(job.training().steps(), 4);
  EXPECT_THAT(job.task().labels(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(job.round().progress_timeout().seconds(), 3600);
  EXPECT_EQ(job.name(), "x=y");
  EXPECT_EQ(job.base().path(), "/a b");
  EXPECT_EQ(job.stop().rounds(), 6);  // the later one
}

TEST(YamlTest, Override_ReplacesASectionWhole) {
  const proto::JobConfig job = Good("training: {batch_size: 8}\n", {"training={steps: 3}"});
  EXPECT_EQ(job.training().steps(), 3);
  EXPECT_EQ(job.training().batch_size(), 32);
}

TEST(YamlTest, Override_ReachesIntoAStruct) {
  const proto::JobConfig job = Good("", {"adapter.config.target_modules=[query,value]", "adapter.config.rank=4",
                                         "adapter.config.deep.er=true", "aggregator.config={mu: '1'}"});
  const auto& fields = job.adapter().config().fields();
  ASSERT_EQ(fields.at("target_modules").list_value().values_size(), 2);
  EXPECT_EQ(fields.at("target_modules").list_value().values(1).string_value(), "value");
  EXPECT_EQ(fields.at("rank").number_value(), 4);
  EXPECT_TRUE(fields.at("deep").struct_value().fields().at("er").bool_value());
  EXPECT_EQ(job.aggregator().config().fields().at("mu").string_value(), "1");
}

TEST(YamlTest, Override_MistakesNameTheOverride) {
  const std::pair<const char*, const char*> cases[] = {
      {"stop.rounds", "--set stop.rounds: expected key=value"},
      {"=3", "--set =3: expected key=value"},
      {"stop..rounds=3", "--set stop..rounds=3: expected key=value"},
      {"thread=2", "--set thread=2: thread: found an unknown key"},
      {"stop.round=2", "--set stop.round=2: stop.round: found an unknown key"},
      {"name.x=2", "--set name.x=2: name: found the key x below it"},
      {"task.labels.x=2", "--set task.labels.x=2: task.labels: found the key x below it"},
      {"stop.rounds=x", "--set stop.rounds=x: stop.rounds: found \"x\", expected a whole number"},
      {"stop.rounds=", "--set stop.rounds=: stop.rounds: found nothing, expected a whole number"},
      {"task.labels=[a", "--set task.labels=[a: found no valid YAML"},
      {"adapter.config.rank.x=3",
       "--set adapter.config.rank.x=3: adapter.config.rank: found a value that is no mapping"},
      {"training.batch_size=0", "--set training.batch_size=0: training.batch_size: found 0, expected"},
      {"base={}", "--set base={}: base: found nothing, expected a value"},
      {"training={batch_size: 0}", "--set training={batch_size: 0}: training.batch_size: found 0"},
  };
  for (const auto& [text, message] : cases) ExpectRefused(ParseMore("training: {batch_size: 4}\n", {text}), message);
}

TEST(YamlTest, Override_MistakesOfTheFileStillNameTheFile) {
  ExpectRefused(ParseMore("training: {batch_size: 0}\n", {"stop.rounds=3"}),
                "job.yaml:8: training.batch_size: found 0");
  EXPECT_TRUE(ParseMore("training: {batch_size: 0}\n", {"training.batch_size=1"}).ok());
}

TEST(YamlTest, LoadYaml_ReadsTheFile) {
  const std::string path = absl::StrCat(testing::TempDir(), "/coordinator.yaml");
  ASSERT_TRUE(WriteFileAtomically(path, "state_dir: /s\npage: 'off'\n\nlisen: x\n").ok());
  proto::CoordinatorConfig coordinator;
  ExpectRefused(LoadYaml(path, {}, &coordinator), absl::StrCat(path, ":4: lisen: found an unknown key"));
  ASSERT_TRUE(WriteFileAtomically(path, "state_dir: /s\n").ok());
  proto::CoordinatorConfig good;
  ASSERT_TRUE(LoadYaml(path, {"page=off"}, &good).ok());
  EXPECT_EQ(good.state_dir(), "/s");
  EXPECT_EQ(good.page(), "off");
}

TEST(YamlTest, LoadYaml_MissingFile) {
  proto::CoordinatorConfig coordinator;
  const absl::Status status = LoadYaml("/nowhere/c.yaml", {}, &coordinator);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/c.yaml"));
}

TEST(YamlTest, OneLine_IsCompactJsonWithTheFileKeys) {
  proto::StopConfig stop;
  stop.set_target_accuracy(0.5);
  stop.mutable_time()->set_seconds(90);
  EXPECT_EQ(OneLine(stop), R"({"time":"90s","target_accuracy":0.5})");
  proto::BaseConfig base;
  base.set_config_json("{\n}");
  EXPECT_EQ(OneLine(base), R"({"config_json":"{\n}"})");
}

}  // namespace
}  // namespace weft::config
