// weft-rounds: runs of jobs over virtual clients in one process, for experiments.
//
//   weft-rounds RUNS.jsonl --out RESULTS.jsonl [--threads N]
//
// One run per line: {"name": "a", "task": "DIR", "job": {...}} and, if wanted, "evaluate_every": n, "ranks": {client:
// rank}, "attacks": {client: {"kind": "scale" | "noise" | "nan", "factor": x}}, "dump": "DIR". A task is a folder with
// base/ and clients/<id>/; the job is a job.yaml as JSON, without base and labels, which the task gives. One result per
// line, in order: the run's name, its status ("OK" or the error that ended it) and its rounds. A run that fails does
// not end the others.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <string>

#include "CLI/CLI.hpp"
#include "adapters/base.h"
#include "aggregators/core/seeded_noise.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "config/yaml.h"
#include "nlohmann/json.hpp"
#include "proto/schema.h"
#include "simulation/runner.h"

namespace weft::simulation {
namespace {

using Json = nlohmann::json;

// A task's base, loaded, and its clients' data, mapped.
struct Task {
  std::unique_ptr<Trainer> trainer;
  std::string config_json;
  std::map<std::string, DataFolder> clients;  // by id
};

absl::StatusOr<Task> OpenTask(const std::string& folder, int threads) {
  Task task;
  WEFT_ASSIGN_OR_RETURN(task.trainer,
                        CreateTorchTrainer({.base = folder + "/base", .device = "cpu", .threads = threads}));
  WEFT_ASSIGN_OR_RETURN(task.config_json, ReadFile(folder + "/base/config.json"));
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder + "/clients", error)) {
    WEFT_ASSIGN_OR_RETURN(DataFolder data, DataFolder::Open(entry.path()));
    task.clients.emplace(entry.path().filename(), std::move(data));
  }
  if (task.clients.empty()) return absl::NotFoundError(folder + "/clients: no folders of data");
  return task;
}

Attack AttackOf(const Json& attack) {
  const std::string kind = attack.at("kind");
  Attack result{.kind = kind == "scale"   ? Attack::Kind::kScale
                        : kind == "noise" ? Attack::Kind::kNoise
                                          : Attack::Kind::kNan,
                .factor = attack.value("factor", 1.0)};
  return result;
}

absl::StatusOr<std::unique_ptr<Runner>> Prepare(const Json& run, Task& task, int threads) {
  Runner::Options options;
  proto::JobConfig job;
  Json text = run.at("job");
  text["name"] = run.at("name");
  text["base"]["path"] = run.at("task");
  WEFT_RETURN_IF_ERROR(config::ParseYaml(text.dump(), "job", {}, &job));
  job.mutable_base()->set_hash(task.trainer->base_hash());
  job.mutable_base()->set_config_json(task.config_json);
  for (const std::string& label : task.clients.begin()->second.labels()) job.mutable_task()->add_labels(label);
  proto::CoordinatorConfig limits;
  limits.set_state_dir("none");
  proto::ApplyDefaults(&limits);
  WEFT_ASSIGN_OR_RETURN(options.job, server::CheckJob(std::move(job), limits));
  options.trainer = task.trainer.get();
  options.threads = threads;
  options.dump = run.value("dump", "");
  for (const auto& [id, data] : task.clients) {
    VirtualClient& client = options.clients.emplace_back();
    client.id = id;
    client.data = &data;
    client.max_rank = run.value("ranks", Json::object()).value(id, int64_t{0});
    const Json attacks = run.value("attacks", Json::object());
    if (attacks.contains(id)) client.attack = AttackOf(attacks[id]);
  }
  return Runner::Create(std::move(options));
}

Json ToJson(const RoundReport& report) {
  Json json = {{"round", report.round},           {"selected", report.selected},     {"updates", report.updates},
               {"refused", report.refused},       {"train_loss", report.train_loss}, {"bytes_up", report.bytes_up},
               {"bytes_down", report.bytes_down}, {"seconds", report.seconds}};
  if (const proto::RoundStatus& evaluation = report.evaluation; evaluation.has_accuracy()) {
    json["accuracy"] = evaluation.accuracy();
    json["loss"] = evaluation.loss();
    if (evaluation.has_f1()) json["f1"] = evaluation.f1();
    if (evaluation.has_perplexity()) json["perplexity"] = evaluation.perplexity();
    json["accuracy_of"] = report.accuracy_of;
  }
  return json;
}

absl::Status Carry(const Json& run, Task& task, int threads, Json* rounds) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Runner> runner, Prepare(run, task, threads));
  const int64_t total = run.at("job").at("stop").at("rounds");
  const int64_t every = run.value("evaluate_every", total);
  for (int64_t round = 1; round <= total; ++round) {
    WEFT_ASSIGN_OR_RETURN(const RoundReport report, runner->Step(round % every == 0 || round == total));
    rounds->push_back(ToJson(report));
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Runs of federated jobs over virtual clients in one process, for experiments.", "weft-rounds");
  std::string runs, out;
  int threads = 1;
  app.add_option("runs", runs, "JSON lines, one run each")->required();
  app.add_option("--out", out, "JSON lines, one result each")->required();
  app.add_option("--threads", threads, "CPU threads of training and folds");
  CLI11_PARSE(app, argc, argv);
  aggregators::AllowSeededNoise();
  std::ifstream lines(runs);
  std::ofstream results(out);
  std::map<std::string, Task> tasks;
  for (std::string line; std::getline(lines, line);) {
    const Json run = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (run.is_discarded() || !run.contains("name") || !run.contains("task") || !run.contains("job")) {
      std::cerr << "weft-rounds: " << runs << ": found \"" << line
                << "\", expected an object with name, task and job\n";
      return 2;
    }
    const std::string folder = run.at("task");
    if (!tasks.contains(folder)) {
      tasks.clear();  // one base in memory
      absl::StatusOr<Task> task = OpenTask(folder, threads);
      if (!task.ok()) {
        std::cerr << "weft-rounds: " << task.status().message() << "\n";
        return 2;
      }
      tasks.emplace(folder, *std::move(task));
    }
    Json rounds = Json::array();
    const absl::Status status = Carry(run, tasks.at(folder), threads, &rounds);
    results
        << Json{{"name", run.at("name")}, {"status", status.ok() ? "OK" : status.ToString()}, {"rounds", rounds}}.dump()
        << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace weft::simulation

int main(int argc, char** argv) { return weft::simulation::Main(argc, argv); }
