#include "simulation/run/prepare.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/status_macros.h"
#include "proto/schema.h"

namespace weft::simulation {
namespace {

absl::StatusOr<std::map<std::string, DataFolder>> OpenData(const proto::PopulationConfig& config) {
  std::map<std::string, DataFolder> data;
  if (config.partition() != "folders") {
    WEFT_ASSIGN_OR_RETURN(DataFolder folder, DataFolder::Open(config.data()));
    data.emplace(config.data(), std::move(folder));
    return data;
  }
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(config.data(), error)) {
    if (!entry.is_directory()) continue;
    WEFT_ASSIGN_OR_RETURN(DataFolder folder, DataFolder::Open(entry.path().string()));
    data.emplace(entry.path().filename().string(), std::move(folder));
  }
  if (!data.empty()) return data;
  return absl::NotFoundError(
      absl::StrCat("population.data: ", config.data(), " holds no folders, expected one data folder for each client"));
}

// The job with what its files say, checked.
absl::StatusOr<server::CheckedJob> CheckedJobOf(const proto::Scenario& scenario, const Trainer& trainer,
                                                const Population& population) {
  proto::JobConfig job = scenario.job();
  WEFT_ASSIGN_OR_RETURN(*job.mutable_base()->mutable_config_json(), ReadFile(job.base().path() + "/config.json"));
  job.mutable_base()->set_hash(trainer.base_hash());
  if (!job.task().labels_file().empty()) {
    WEFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(job.task().labels_file()));
    for (const absl::string_view label : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      job.mutable_task()->add_labels(std::string(label));
    }
  }
  if (job.task().type() != population.task()) {
    return absl::InvalidArgumentError(absl::StrCat("job.task.type: found ", job.task().type(), ", the data are for ",
                                                   population.task(), "; prepare them for the job's task"));
  }
  if (job.task().labels().empty()) {
    for (const std::string& label : population.labels()) job.mutable_task()->add_labels(label);
  }
  if (!std::equal(job.task().labels().begin(), job.task().labels().end(), population.labels().begin(),
                  population.labels().end())) {
    return absl::InvalidArgumentError(absl::StrCat("job.task.labels: found ", absl::StrJoin(job.task().labels(), ", "),
                                                   ", the data have ", absl::StrJoin(population.labels(), ", "),
                                                   "; leave them out, or prepare the data with these"));
  }
  proto::CoordinatorConfig limits;
  limits.set_state_dir("none");
  proto::ApplyDefaults(&limits);
  return server::CheckJob(std::move(job), limits);
}

}  // namespace

double PreparedRun::TokensPerRow() const {
  if (job->base.transformer.has_value() && job->base.transformer->patches.has_value()) {
    return 1 + static_cast<double>(job->base.transformer->patches->count());
  }
  return population->tokens_per_row();
}

absl::StatusOr<std::string> DataHashOf(const proto::Scenario& scenario) {
  namespace fs = std::filesystem;
  const fs::path data = scenario.population().data();
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::recursive_directory_iterator at(data, error), end; !error && at != end; at.increment(error)) {
    if (at->is_regular_file()) files.push_back(at->path());
  }
  if (error) return absl::NotFoundError(absl::StrCat(data.string(), ": ", error.message()));
  std::sort(files.begin(), files.end());
  const proto::BehaviourConfig& behaviour = scenario.behaviour();
  for (const std::string& path : {behaviour.speed().trace(), behaviour.availability().trace(), behaviour.cohorts()}) {
    if (!path.empty()) files.emplace_back(path);
  }
  Sha256 sha;
  std::vector<char> chunk(1 << 20);
  for (const fs::path& path : files) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return absl::NotFoundError(absl::StrCat(path.string(), ": can't be read"));
    const fs::path inside = path.lexically_relative(data);  // clients may be called like their folders
    const std::string name = inside.empty() || *inside.begin() == ".." ? path.filename().string() : inside.string();
    sha.Update(absl::StrCat(name, "\n", fs::file_size(path, error), "\n"));
    while (file.read(chunk.data(), static_cast<std::streamsize>(chunk.size())), file.gcount() > 0) {
      sha.Update(chunk.data(), static_cast<size_t>(file.gcount()));
    }
  }
  return ToHex(sha.Finish());
}

int LocalRanks() {
  const char* text = std::getenv("LOCAL_WORLD_SIZE");
  int ranks = 0;
  return text != nullptr && absl::SimpleAtoi(text, &ranks) && ranks > 0 ? ranks : 1;
}

absl::StatusOr<PreparedRun> Prepare(const proto::Scenario& scenario, const TrainerFor& trainer, int local_ranks) {
  PreparedRun run;
  Population::Options made{.config = scenario.population(),
                           .seed = scenario.job().seed(),
                           .data = {},
                           .evaluation_split = scenario.job().evaluation().split()};
  WEFT_ASSIGN_OR_RETURN(made.data, OpenData(scenario.population()));
  WEFT_ASSIGN_OR_RETURN(run.population, Population::Create(std::move(made)));
  WEFT_ASSIGN_OR_RETURN(run.behaviour,
                        Behaviour::Create({.config = scenario.behaviour(),
                                           .clients = run.population->size(),
                                           .seed = scenario.job().seed(),
                                           .find = [population = run.population.get()](const std::string& name) {
                                             const absl::StatusOr<int64_t> client = population->Find(name);
                                             return client.ok() ? std::optional(*client) : std::nullopt;
                                           }}));
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const int threads =
      scenario.run().threads() > 0 ? static_cast<int>(scenario.run().threads()) : std::max(1, cores / local_ranks);
  WEFT_ASSIGN_OR_RETURN(run.trainer, trainer(scenario, threads));
  WEFT_ASSIGN_OR_RETURN(server::CheckedJob job, CheckedJobOf(scenario, *run.trainer, *run.population));
  run.job = std::make_unique<const server::CheckedJob>(std::move(job));
  if (run.trainer->device().starts_with("cpu")) run.threads = threads;
  return run;
}

}  // namespace weft::simulation
