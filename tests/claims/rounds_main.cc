// Simulations for experiments, many in a process and nothing written but their figures.
//
//   rounds RUNS.jsonl --out RESULTS.jsonl
//
// One run a line: {"name": "a", "scenario": {...}}, a scenario.yaml as JSON, and, if wanted, "dump": "DIR" for each
// round's start, updates and result as safetensors. One result a line, in order: {"name", "status": "OK" or what ended
// it, "rounds": as rounds.jsonl has them}. A run that fails does not end the others.

#include <fstream>
#include <iostream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "adapters/safetensors.h"
#include "aggregators/core/seeded_noise.h"
#include "common/status_macros.h"
#include "config/yaml.h"
#include "nlohmann/json.hpp"
#include "simulation/engine/engine.h"
#include "simulation/report/run_folder.h"
#include "simulation/run/prepare.h"
#include "simulation/run/run.h"

namespace weft::simulation {
namespace {

using Json = nlohmann::ordered_json;

// The trainer of the last base, which runs of one task share.
class LastTrainer {
 public:
  absl::StatusOr<Trainer*> Open(const proto::Scenario& scenario) {
    if (const std::string& base = scenario.job().base().path(); base != base_) {
      base_.clear();
      trainer_.reset();
      TrainerOptions options;
      options.base = base;
      options.device = "cpu";
      options.threads = 1;
      options.tokens_per_pass = std::numeric_limits<int64_t>::max();
      WEFT_ASSIGN_OR_RETURN(trainer_, CreateTorchTrainer(options));
      base_ = base;
    }
    return trainer_.get();
  }

 private:
  std::string base_;
  std::unique_ptr<Trainer> trainer_;
};

// Writes the tensors of rounds; the first error is kept.
class Dump {
 public:
  explicit Dump(std::string folder) : folder_(std::move(folder)) {}

  void Write(int64_t round, const std::string& what, const Adapter& adapter) {
    if (folder_.empty() || !status_.ok()) return;
    std::vector<SafetensorToWrite> tensors;
    for (const TensorSpec& tensor : adapter.layout().tensors()) {
      tensors.push_back({tensor.name, "F32", tensor.shape, std::as_bytes(adapter.tensor(tensor))});
    }
    status_ = WriteSafetensors(absl::StrCat(folder_, "/round-", round, ".", what, ".safetensors"), tensors);
  }
  const absl::Status& status() const { return status_; }

 private:
  const std::string folder_;
  absl::Status status_;
};

absl::Status CarryOutLine(const Json& run, LastTrainer* trainer, Json* rounds) {
  proto::Scenario scenario;
  WEFT_RETURN_IF_ERROR(config::ParseYaml(run.at("scenario").dump(), "scenario", {}, &scenario));
  const auto open = [&](const proto::Scenario& wanted, int) { return trainer->Open(wanted); };
  WEFT_ASSIGN_OR_RETURN(const PreparedRun prepared, Prepare(scenario, open, /*local_ranks=*/1));
  WEFT_ASSIGN_OR_RETURN(Engine::Options options, EngineOptionsOf(scenario, prepared));
  Dump dump(run.value("dump", ""));
  int64_t round = 1;
  options.on_update = [&](const std::string& client, const EncodedUpdate& update) {
    dump.Write(round, absl::StrCat("update.", client), update.Decode());
  };
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(std::move(options)));
  dump.Write(round, "start", *engine->state());
  WEFT_RETURN_IF_ERROR(engine->Run([&](const proto::RoundStatus& committed) {
    rounds->push_back(RoundToJson(committed));
    dump.Write(round, "next", *engine->state());
    dump.Write(++round, "start", *engine->state());
    return true;
  }));
  WEFT_RETURN_IF_ERROR(dump.status());
  const proto::JobStatus status = engine->Status();
  return status.state() == proto::FINISHED ? absl::OkStatus() : absl::AbortedError(status.message());
}

int Main(int argc, char** argv) {
  CLI::App app("Simulations for experiments, many in a process and nothing written but their figures.", "rounds");
  std::string runs, out;
  app.add_option("runs", runs, "JSON lines, one run each")->required();
  app.add_option("--out", out, "JSON lines, one result each")->required();
  CLI11_PARSE(app, argc, argv);
  aggregators::AllowSeededNoise();
  std::ifstream lines(runs);
  std::ofstream results(out);
  LastTrainer trainer;
  for (std::string line; std::getline(lines, line);) {
    const Json run = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!run.is_object() || !run.contains("name") || !run.contains("scenario")) {
      std::cerr << "rounds: " << runs << ": found \"" << line << "\", expected an object with name and scenario\n";
      return 2;
    }
    Json rounds = Json::array();
    const absl::Status status = CarryOutLine(run, &trainer, &rounds);
    const Json result = {
        {"name", run.at("name")}, {"status", status.ok() ? "OK" : status.ToString()}, {"rounds", rounds}};
    results << result.dump() << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace weft::simulation

int main(int argc, char** argv) { return weft::simulation::Main(argc, argv); }
