#include "simulation/run/run.h"

#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "adapters/base.h"
#include "adapters/peft_folder.h"
#include "common/available_memory.h"
#include "common/file.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/version.h"
#include "proto/schema.h"
#include "server/evaluation/evaluation.h"
#include "server/submit_check.h"
#include "simulation/behaviour/behaviour.h"
#include "simulation/engine/draw.h"
#include "simulation/engine/engine.h"
#include "simulation/population/population.h"
#include "simulation/report/run_folder.h"
#include "simulation/scenario/scenario.h"

namespace weft::simulation {
namespace {

// Updates that are computed, but not folded yet, of the groups that a thread works on.
constexpr int64_t kGroupsPerThread = 4;
// On a CPU enough for products to run well (MiniLM in bf16: 256 tokens take a quarter more, 1,024 and 2,048 no less),
// and few enough that a cohort makes groups for several threads; elsewhere what fills a device.
constexpr double kTokensPerPass = 512;
constexpr double kTokensPerPassOfDevice = 32768;

std::string Megabytes(int64_t bytes) { return absl::StrFormat("%d MB", (bytes + 999'999) / 1'000'000); }

// `count` clients, the same in every run of a population.
std::vector<int64_t> SomeClients(int64_t count, const Population& population, uint64_t seed) {
  Philox random(seed, StreamId("evaluators"));
  return DrawUniform(
      count, population.size(), [](int64_t) { return true; }, random);
}

absl::Status CheckMemory(const proto::Scenario& scenario, const server::CheckedJob& job, const Population& population,
                         double tokens_per_row, int threads) {
  const int64_t asked = scenario.run().memory_bytes(), limit = asked > 0 ? asked : AvailableMemory();
  const proto::SelectionConfig& selection = job.config.selection();
  const int64_t cohort = selection.rule() == "uniform"
                             ? std::min<int64_t>(population.size(), selection.clients() * selection.over_select() + 1)
                             : population.size();
  const double tokens = tokens_per_row * static_cast<double>(job.config.training().batch_size());
  const double per_pass = scenario.run().tokens_per_pass() > 0 ? scenario.run().tokens_per_pass() : kTokensPerPass;
  const auto in_flight = std::min<int64_t>(
      cohort, threads * kGroupsPerThread * static_cast<int64_t>(1 + per_pass / std::max(tokens, 1.0)));
  const int64_t clients = population.EstimateBytes() + 4 * population.size();
  const int64_t updates = 3 * in_flight * job.layout->size_bytes();
  const int64_t rule = job.rule->MemoryBytes(job.config, *job.layout, cohort);
  const int64_t kept = std::min(scenario.run().kept_bytes(), population.size() * job.layout->size_bytes());
  const int64_t sum = clients + updates + rule + kept;
  if (sum <= limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the run would take ", Megabytes(sum), " beside the base and its training (population ", Megabytes(clients),
      ", updates in flight ", Megabytes(updates), ", rule ", Megabytes(rule), ", kept states ", Megabytes(kept), "), ",
      asked > 0 ? "run.memory_bytes allows " : "the machine has to spare ", Megabytes(limit),
      "; lower job.selection.clients, run.kept_bytes, run.threads or the adapter's rank",
      asked > 0 ? ", or raise it" : ""));
}

std::string Describe(const proto::ShiftConfig* shift) {
  if (shift == nullptr || shift->kind() == "none") return "";
  return shift->amount() == 0 ? shift->kind() : absl::StrCat(shift->kind(), " ", shift->amount());
}

absl::StatusOr<std::vector<ClientFigures>> FiguresOf(Engine& engine, const proto::Scenario& scenario,
                                                     const server::CheckedJob& job, const Population& population,
                                                     const Behaviour& behaviour) {
  std::vector<ClientFigures> clients;
  if (scenario.evaluation().final_clients() == 0 || engine.history().rounds.empty()) return clients;
  const std::vector<int64_t> chosen =
      SomeClients(scenario.evaluation().final_clients(), population, MixSeed(scenario.job().seed(), 1));
  WEFT_ASSIGN_OR_RETURN(const std::vector<ClientEvaluation> evaluations, engine.EvaluateClients(chosen));
  std::map<int64_t, int64_t> rounds;
  for (const server::CommittedRound& round : engine.history().rounds) {
    for (const uint32_t client : round.status.simulated().downloaded()) ++rounds[client];
  }
  for (const ClientEvaluation& evaluation : evaluations) {
    ClientFigures& figures = clients.emplace_back();
    figures.client = population.Name(evaluation.client);
    figures.train_rows = population.TrainRows(evaluation.client);
    figures.test_rows = evaluation.figures.examples();
    figures.rounds = rounds.contains(evaluation.client) ? rounds.at(evaluation.client) : 0;
    server::EvaluationSum sum(job.config.task());
    sum.Add(evaluation.figures);
    proto::RoundStatus status;
    sum.Fill(&status);
    if (status.has_accuracy()) figures.accuracy = status.accuracy();
    if (status.has_loss()) figures.loss = status.loss();
    figures.shift = Describe(population.ShiftOf(evaluation.client));
    if (const auto* hostile = behaviour.HostileOf(evaluation.client); hostile != nullptr)
      figures.attack = hostile->attack();
    figures.max_rank = behaviour.MaxRankOf(evaluation.client);
  }
  return clients;
}

RunSummary SummaryOf(const Engine& engine, const proto::Scenario& scenario, const PreparedRun& prepared) {
  const proto::JobStatus status = engine.Status();
  RunSummary summary;
  summary.state = status.state() == proto::FINISHED ? "finished" : "failed";
  summary.message = status.message();
  summary.version = kVersion;
  summary.device = prepared.trainer->device();
  summary.threads = prepared.threads;
  summary.population = prepared.population->size();
  summary.parameters = prepared.job->layout->num_elements();
  summary.best_round = status.best_round();
  summary.best_accuracy = status.best_accuracy();
  if (scenario.evaluation().has_target_accuracy()) {
    summary.target_accuracy = scenario.evaluation().target_accuracy();
  } else if (scenario.job().stop().has_target_accuracy()) {
    summary.target_accuracy = scenario.job().stop().target_accuracy();
  }
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  summary.peak_memory_mb = static_cast<double>(usage.ru_maxrss) * 1024 / 1e6;
  const server::CheckedJob& job = *prepared.job;
  if (const auto spent = job.rule->Spent(job.config, 1); spent.has_value()) summary.delta = spent->delta;
  return summary;
}

absl::Status WriteAdapter(const std::string& folder, const Engine& engine, const server::CheckedJob& job) {
  proto::JobConfig config;
  WEFT_ASSIGN_OR_RETURN(const Adapter adapter, engine.Export(&config));
  PeftFolderOptions options;
  options.adapter = config.adapter();
  options.task = config.task();
  options.base = job.base;
  options.base_name = config.base().path();
  options.base_hash = config.base().hash();
  return WritePeftFolder(folder, adapter, options);
}

}  // namespace

absl::StatusOr<Engine::Options> EngineOptionsOf(const proto::Scenario& scenario, const PreparedRun& prepared) {
  const server::CheckedJob& job = *prepared.job;
  const Population& population = *prepared.population;
  Engine::Options options;
  options.scenario = scenario;
  options.site = prepared.site();
  if (!scenario.job().warm_start().empty()) {
    WEFT_ASSIGN_OR_RETURN(Adapter initial,
                          ReadPeftFolder(scenario.job().warm_start(), job.layout, job.base, job.config.task().type()));
    WEFT_RETURN_IF_ERROR(CheckFinite(initial));
    options.initial = std::make_shared<const Adapter>(std::move(initial));
  }
  if (scenario.evaluation().central()) {
    options.central = population.central();
  } else {
    options.evaluators = SomeClients(scenario.evaluation().clients(), population, scenario.job().seed());
  }
  options.tokens_per_pass = scenario.run().tokens_per_pass() > 0 ? static_cast<double>(scenario.run().tokens_per_pass())
                            : prepared.trainer->device().starts_with("cpu") ? kTokensPerPass
                                                                            : kTokensPerPassOfDevice;
  options.tokens_per_row = prepared.TokensPerRow();
  return options;
}

absl::StatusOr<RunEnd> CarryOut(const RunOptions& options) {
  const proto::Scenario& scenario = options.scenario;
  if (IsFinished(options.folder, scenario)) return RunEnd::kFinishedBefore;
  WEFT_ASSIGN_OR_RETURN(const PreparedRun prepared, Prepare(scenario, options.trainer, LocalRanks()));
  const server::CheckedJob& job = *prepared.job;
  const Population& population = *prepared.population;
  WEFT_ASSIGN_OR_RETURN(Engine::Options engine_options, EngineOptionsOf(scenario, prepared));
  engine_options.workers = options.workers;
  engine_options.folder = options.folder;
  WEFT_RETURN_IF_ERROR(Engine::Check(engine_options));
  WEFT_RETURN_IF_ERROR(CheckMemory(scenario, job, population, engine_options.tokens_per_row, prepared.threads));

  if (options.workers != nullptr) {
    WEFT_RETURN_IF_ERROR(
        options.workers->OpenRun(options.number, FingerprintOf(scenario), prepared.trainer->base_hash()));
  }
  // First, so that a folder of another scenario is left alone.
  WEFT_RETURN_IF_ERROR(RunFolder::Open(options.folder, scenario, {}).status());
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(std::move(engine_options)));
  std::vector<proto::RoundStatus> before;
  for (int64_t i = 0; i < engine->reported(); ++i) before.push_back(engine->history().rounds[i].status);
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<RunFolder> folder, RunFolder::Open(options.folder, scenario, before));
  absl::Status written;
  bool stopped = false;
  WEFT_RETURN_IF_ERROR(engine->Run([&](const proto::RoundStatus& round) {
    written = folder->Add(round);
    stopped = !options.progress(round, engine->Status().rounds_total());
    return written.ok() && !stopped;
  }));
  WEFT_RETURN_IF_ERROR(written);
  const proto::JobState state = engine->Status().state();
  if (state != proto::FINISHED && state != proto::FAILED) return RunEnd::kStopped;
  WEFT_ASSIGN_OR_RETURN(const std::vector<ClientFigures> clients,
                        FiguresOf(*engine, scenario, job, population, *prepared.behaviour));
  WEFT_RETURN_IF_ERROR(WriteAdapter(options.folder + "/adapter", *engine, job));
  WEFT_RETURN_IF_ERROR(folder->Finish(SummaryOf(*engine, scenario, prepared), clients));
  return state == proto::FINISHED ? RunEnd::kFinished : RunEnd::kFailed;
}

}  // namespace weft::simulation
