#include "simulation/run/run.h"

#include <algorithm>
#include <cmath>
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
#include "simulation/cohort/cohort.h"
#include "simulation/cohort/site.h"
#include "simulation/engine/draw.h"
#include "simulation/engine/engine.h"
#include "simulation/population/population.h"
#include "simulation/report/run_folder.h"
#include "simulation/run/peak_memory.h"
#include "simulation/scenario/scenario.h"

namespace weft::simulation {
namespace {

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

// Clients of a round, but for one in a billion.
int64_t LargestCohort(const proto::SelectionConfig& selection, int64_t population) {
  double clients = static_cast<double>(population);
  if (selection.rule() == "uniform") {
    clients = std::ceil(static_cast<double>(selection.clients()) * selection.over_select());
  } else if (selection.rule() == "poisson") {
    const double mean = selection.rate() * static_cast<double>(population);
    clients = std::ceil(mean + 6 * std::sqrt(mean) + 6);
  }
  return std::min(population, static_cast<int64_t>(clients));
}

absl::Status CheckMemory(const Engine::Options& options) {
  const proto::Scenario& scenario = options.scenario;
  const server::CheckedJob& job = *options.site.job;
  const Population& population = *options.site.population;
  const int64_t asked = scenario.run().memory_bytes(), limit = asked > 0 ? asked : AvailableMemory();
  const int64_t cohort = LargestCohort(job.config.selection(), population.size());
  const double tokens = options.tokens_per_row * static_cast<double>(job.config.training().batch_size());
  const int groups = options.workers == nullptr ? kGroupsPerThread : kGroupsPerThreadOfRanks;
  const auto in_flight =
      std::min(cohort, options.site.threads * groups *
                           static_cast<int64_t>(1 + options.tokens_per_pass / std::max(tokens, 1.0)));
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Adapter> state,
                        InitialStateOf(options.site, options.initial.get()));
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<server::Fold> fold, MakeFold(options.site, state, 1, 1));
  const int64_t kept_by_one = KeptBytes(options.site, fold->plan());
  const int64_t clients = population.EstimateBytes() + 4 * population.size();
  const int64_t updates = 3 * in_flight * job.layout->size_bytes();
  const int64_t rule = job.rule->MemoryBytes(job.config, state->layout(), cohort);
  // Those of a round until it is committed, and of further clients as many as the budget allows.
  const int64_t kept =
      kept_by_one * cohort + std::min(scenario.run().kept_bytes(), kept_by_one * (population.size() - cohort));
  const int64_t sum = clients + updates + rule + kept;
  if (sum <= limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the run would take ", Megabytes(sum), " beside the base and its training (population ", Megabytes(clients),
      ", updates in flight ", Megabytes(updates), ", rule ", Megabytes(rule), ", kept states ", Megabytes(kept), "), ",
      asked > 0 ? "run.memory_bytes allows " : "the machine has to spare ", Megabytes(limit),
      "; lower job.selection.clients, run.kept_bytes, run.threads or the adapter's rank",
      asked > 0 ? ", or raise it" : ""));
}

// What is to be evaluated must be there, and what waits for an evaluation must get one.
absl::Status CheckEvaluation(const proto::Scenario& scenario, const Population& population) {
  const proto::SimulatedEvaluation& evaluation = scenario.evaluation();
  if (evaluation.central() && evaluation.clients() > 0) {
    return absl::InvalidArgumentError(
        "evaluation.clients: rounds are evaluated centrally; set evaluation.central: false to have clients do it, or "
        "evaluation.final_clients for their figures at the end");
  }
  if (evaluation.central() || evaluation.clients() > 0) {
    if (!population.central().empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("job.evaluation.split: found ", scenario.job().evaluation().split(), ", the data have the splits ",
                     absl::StrJoin(population.splits(), ", "),
                     "; name one of them, or set evaluation.central: false to evaluate nothing"));
  }
  const proto::StopConfig& stop = scenario.job().stop();
  if (!stop.has_target_accuracy() && !stop.has_patience() && !evaluation.has_target_accuracy()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "evaluation.clients: missing; an accuracy is waited for (target_accuracy or stop.patience), and with "
      "evaluation.central: false only these clients evaluate");
}

std::string Describe(const proto::ShiftConfig* shift) {
  if (shift == nullptr || shift->kind() == "none") return "";
  return shift->amount() == 0 ? shift->kind() : absl::StrCat(shift->kind(), " ", shift->amount());
}

absl::StatusOr<std::vector<ClientFigures>> FiguresOf(Engine& engine, const proto::Scenario& scenario,
                                                     const PreparedRun& prepared) {
  const Population& population = *prepared.population;
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
    server::EvaluationSum sum(prepared.job->config.task());
    sum.Add(evaluation.figures);
    proto::RoundStatus status;
    sum.Fill(&status);
    if (status.has_accuracy()) figures.accuracy = status.accuracy();
    if (status.has_loss()) figures.loss = status.loss();
    figures.shift = Describe(population.ShiftOf(evaluation.client));
    if (const auto* hostile = prepared.behaviour->HostileOf(evaluation.client); hostile != nullptr)
      figures.attack = hostile->attack();
    figures.max_rank = prepared.behaviour->MaxRankOf(evaluation.client);
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
  summary.peak_memory_mb = static_cast<double>(PeakMemory()) / 1e6;
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
  WEFT_RETURN_IF_ERROR(CheckEvaluation(scenario, population));
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
  ResetPeakMemory();
  WEFT_ASSIGN_OR_RETURN(const PreparedRun prepared, Prepare(scenario, options.trainer, LocalRanks()));
  WEFT_ASSIGN_OR_RETURN(Engine::Options engine_options, EngineOptionsOf(scenario, prepared));
  engine_options.workers = options.workers;
  engine_options.folder = options.folder;
  WEFT_RETURN_IF_ERROR(Engine::Check(engine_options));
  WEFT_RETURN_IF_ERROR(CheckMemory(engine_options));
  WEFT_RETURN_IF_ERROR(RunFolder::Check(options.folder, scenario));

  if (options.workers != nullptr) {
    OpenRun run;
    run.set_number(options.number);
    run.set_fingerprint(FingerprintOf(scenario));
    run.set_base_hash(prepared.trainer->base_hash());
    WEFT_ASSIGN_OR_RETURN(*run.mutable_data_hash(), DataHashOf(scenario));
    WEFT_RETURN_IF_ERROR(options.workers->OpenRun(run));
  }
  // The engine's lock and its journal's own check come before anything in the folder is written anew.
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
  WEFT_ASSIGN_OR_RETURN(const std::vector<ClientFigures> clients, FiguresOf(*engine, scenario, prepared));
  WEFT_RETURN_IF_ERROR(WriteAdapter(options.folder + "/adapter", *engine, *prepared.job));
  WEFT_RETURN_IF_ERROR(folder->Finish(SummaryOf(*engine, scenario, prepared), clients));
  return state == proto::FINISHED ? RunEnd::kFinished : RunEnd::kFailed;
}

}  // namespace weft::simulation
