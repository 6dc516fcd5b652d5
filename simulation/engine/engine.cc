// EngineImpl: opening, going on, and the loop of events.

#include "simulation/engine/engine.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/factors.h"
#include "adapters/forms/form.h"
#include "aggregators/core/state.h"
#include "common/status_macros.h"
#include "google/protobuf/util/message_differencer.h"
#include "proto/schema.h"
#include "server/export/export_adapter.h"
#include "server/job/duration.h"
#include "simulation/engine/engine_impl.h"

namespace weft::simulation {

namespace {

// The state machine looks at the clock so often while nothing else happens.
constexpr absl::Duration kIdleStep = absl::Seconds(1);
// Nothing at all for so long: nothing ever will.
constexpr absl::Duration kLongestWait = absl::Hours(24 * 60);

// Rounds that this population can't fill.
absl::Status CheckSelection(const Engine::Options& options) {
  const proto::JobConfig& config = options.site.job->config;
  const int64_t population = options.site.population->size();
  const auto refuse = [&](const std::string& key, int64_t found) {
    return absl::InvalidArgumentError(absl::StrCat(key, ": found ", found, ", expected at most ", population,
                                                   ", the clients of the population; lower it, or raise "
                                                   "population.clients"));
  };
  const proto::SelectionConfig& selection = config.selection();
  if (selection.rule() == "uniform" && selection.clients() > population) {
    return refuse("job.selection.clients", selection.clients());
  }
  if (options.site.behaviour->cohorts().has_value()) {
    for (const std::vector<std::string>& cohort : options.site.behaviour->cohorts()->cohorts()) {
      for (const std::string& name : cohort) {
        if (!options.site.population->Find(name).ok()) {
          return absl::InvalidArgumentError(absl::StrCat("behaviour.cohorts: names ", name,
                                                         ", the population has no such "
                                                         "client"));
        }
      }
    }
  }
  if (selection.min_ready() > population) return refuse("job.selection.min_ready", selection.min_ready());
  if (config.round().min_updates() > population) return refuse("job.round.min_updates", config.round().min_updates());
  return absl::OkStatus();
}

// What clients are to do that they, or the rule, can't.
absl::Status CheckBehaviour(const Engine::Options& options) {
  const server::CheckedJob& job = *options.site.job;
  const int64_t rank = server::RankOf(*job.layout);
  for (const proto::RankConfig& group : options.scenario.behaviour().ranks()) {
    if (group.rank() >= rank || job.rule->facts().takes_mixed_ranks) continue;
    return absl::InvalidArgumentError(absl::StrCat("behaviour.ranks: found rank ", group.rank(), ", rule ",
                                                   job.config.aggregator().name(), " needs all ", rank,
                                                   "; leave ranks out, or use a rule that takes mixed ranks, such as "
                                                   "flexlora"));
  }
  for (const proto::HostileConfig& group : options.scenario.behaviour().hostile()) {
    if (group.attack() != "label_flip") continue;
    WEFT_RETURN_IF_ERROR(options.site.population->Train(0, /*flip_labels=*/true).status());
  }
  return absl::OkStatus();
}

// What would make the privacy that is reported another than that of the run.
absl::Status CheckPrivacy(const Engine::Options& options) {
  const server::CheckedJob& job = *options.site.job;
  if (!job.privacy.has_value()) return absl::OkStatus();
  if (options.site.behaviour->cohorts().has_value() && job.config.selection().rule() == "poisson") {
    return absl::InvalidArgumentError(
        "behaviour.cohorts: the file says who takes part, but the privacy spent is that of clients drawn at random "
        "(selection.rule poisson); leave it out, or use another selection");
  }
  const auto& config = job.config.aggregator().config().fields();
  const auto clients = config.find("clients");
  const int64_t population = options.site.population->size();
  if (clients == config.end() || clients->second.number_value() >= static_cast<double>(population)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("job.aggregator.config.clients: found ",
                                                 clients->second.number_value(), ", expected at least ", population,
                                                 ", the clients of the population; raise it, or have fewer"));
}

std::vector<std::string> Evaluators(const Engine::Options& options) {
  if (!options.central.empty()) return {kCentral};
  std::vector<std::string> names;
  for (const int64_t client : options.evaluators) names.push_back(options.site.population->Name(client));
  return names;
}

}  // namespace

absl::Status Engine::Check(const Options& options) {
  WEFT_RETURN_IF_ERROR(CheckSelection(options));
  WEFT_RETURN_IF_ERROR(CheckBehaviour(options));
  WEFT_RETURN_IF_ERROR(CheckPrivacy(options));
  return PrepareTrainer(options.site).status();
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(Options options) {
  WEFT_RETURN_IF_ERROR(Check(options));
  auto engine = std::make_unique<EngineImpl>(std::move(options));
  WEFT_RETURN_IF_ERROR(engine->Open());
  return engine;
}

absl::Status EngineImpl::Open() {
  job_id_ = config().name();
  WEFT_ASSIGN_OR_RETURN(layout_, PrepareTrainer(options_.site));
  server::StoredJob stored;
  if (!options_.folder.empty()) WEFT_RETURN_IF_ERROR(OpenJournal(&stored));
  if (stored.id.empty()) WEFT_RETURN_IF_ERROR(StartFresh(&stored));
  const std::vector<server::CommittedRound>& rounds = stored.history.rounds;
  const int64_t last = static_cast<int64_t>(rounds.size());
  WEFT_ASSIGN_OR_RETURN(states_,
                        ClientStates::Open({.folder = options_.folder.empty() ? "" : options_.folder + "/states",
                                            .memory_bytes = options_.scenario.run().kept_bytes(),
                                            .round = last}));
  now_ = kStart;
  candidates_ = std::make_shared<VirtualCandidates>(VirtualCandidates::Options{.population = options_.site.population,
                                                                               .behaviour = options_.site.behaviour,
                                                                               .now = &now_,
                                                                               .start = kStart,
                                                                               .evaluators = Evaluators(options_)});
  WEFT_RETURN_IF_ERROR(Restore(stored));
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<server::Fold> fold,
                        MakeFold(options_.site, broadcast_->state(), last + 1, 1));
  kept_bytes_ = KeptBytes(options_.site, fold->plan());
  roles_local_ = {fold->plan().roles_local().begin(), fold->plan().roles_local().end()};
  stored.history.started = kStart;
  server::JobMachine::Options machine;
  machine.config = config();
  machine.rejoin_grace = kRejoinGrace;
  machine.history = std::move(stored.history);
  if (options_.site.job->privacy.has_value()) machine.privacy_rounds = options_.site.job->privacy->rounds;
  machine.candidates = candidates_;
  machine_.emplace(std::move(machine));
  reported_ = machine_->EvaluationDue(now_) == server::Evaluated::kNo ? last : last - 1;
  real_commit_ = absl::Now();
  return absl::OkStatus();
}

absl::Status EngineImpl::OpenJournal(server::StoredJob* stored) {
  WEFT_ASSIGN_OR_RETURN(journal_, server::Journal::Open(options_.folder + "/journal"));
  WEFT_ASSIGN_OR_RETURN(std::vector<server::StoredJob> jobs, journal_->Load());
  if (jobs.empty()) return absl::OkStatus();
  *stored = std::move(jobs.front());
  if (google::protobuf::util::MessageDifferencer::Equals(stored->config, config())) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(options_.folder, ": holds a run of another job, \"",
                                                    stored->config.name(),
                                                    "\"; choose another name or folder, or remove it"));
}

absl::Status EngineImpl::StartFresh(server::StoredJob* stored) {
  WEFT_ASSIGN_OR_RETURN(initial_, InitialStateOf(options_.site, options_.initial.get()));
  stored->id = job_id_;
  stored->config = config();
  stored->submitted = kStart;
  if (journal_ == nullptr) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(const server::TensorStore::Pin pin, journal_->tensors().Put(*initial_));
  stored->states[0] = {pin.hash(), initial_->layout_ptr()};
  return journal_->AddJob(*stored);
}

// Everything that a run has come to after its committed rounds; after none, what it begins with.
absl::Status EngineImpl::Restore(const server::StoredJob& stored) {
  const std::vector<server::CommittedRound>& rounds = stored.history.rounds;
  const int64_t last = static_cast<int64_t>(rounds.size());
  const auto read = [&](const server::StoredTensors& tensors) -> absl::StatusOr<std::shared_ptr<const Adapter>> {
    WEFT_ASSIGN_OR_RETURN(Adapter values, journal_->tensors().Get(tensors.hash, tensors.layout));
    return std::make_shared<const Adapter>(std::move(values));
  };
  if (initial_ == nullptr) {
    WEFT_ASSIGN_OR_RETURN(initial_, read(stored.states.at(0)));
  }
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const server::Broadcast> first, server::Broadcast::Create(initial_));
  downloads_.Publish(*first, 0);
  WEFT_RETURN_IF_ERROR(Publish(std::move(first)));
  for (const server::CommittedRound& round : rounds) {
    const proto::SimulatedRound& notes = round.status.simulated();
    for (const uint32_t client : notes.downloaded()) downloads_.Done(client);
    candidates_->TakeChanges();  // of the evaluation before: noted by this round
    for (const proto::Standing& standing : notes.standings()) candidates_->Restore(standing);
    if (round.evaluated != server::Evaluated::kNo && options_.central.empty()) {
      for (const int64_t client : options_.evaluators) {
        if (options_.site.population->TestRows(client) > 0)
          candidates_->Answered(options_.site.population->Name(client));
      }
    }
    uint64_t step_bytes = 0;
    if (const auto step = stored.base_steps.find(round.status.round()); step != stored.base_steps.end()) {
      WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Adapter> values, read(step->second));
      WEFT_RETURN_IF_ERROR(options_.site.trainer->AddToBase(job_id_, round.status.round(), *values));
      step_bytes = values->bytes().size();
      base_steps_.emplace_back(round.status.round(), std::move(values));
    }
    downloads_.Replay(round.status.round(), {notes.changed_roles().begin(), notes.changed_roles().end()}, step_bytes);
    now_ = kStart + absl::Microseconds(notes.clock_us());
  }
  if (last == 0) return absl::OkStatus();
  // An evaluation to come may make it the best of all again; a job that has ended may no longer hold it.
  const int64_t best = server::BestRound({rounds.begin(), rounds.end() - 1});
  if (const auto found = stored.states.find(best); best > 0 && found != stored.states.end()) {
    WEFT_ASSIGN_OR_RETURN(best_state_, read(found->second));
  }
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Adapter> state, read(stored.states.at(last)));
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const server::Broadcast> broadcast,
                        server::Broadcast::Create(std::move(state)));
  downloads_.Know(*broadcast);
  return Publish(std::move(broadcast));
}

absl::Status EngineImpl::Publish(std::shared_ptr<const server::Broadcast> broadcast) {
  broadcast_ = std::move(broadcast);
  received_ = ReceivedOf(*broadcast_);
  return absl::OkStatus();
}

absl::Status EngineImpl::Run(const Observer& observer) {
  observer_ = &observer;
  WEFT_RETURN_IF_ERROR(Apply(machine_->Start(now_)));
  absl::Time moved = now_;
  while (!stopped_ && machine_->phase() != server::JobMachine::Phase::kEnded) {
    if (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      if (event.attempt != attempts_ || !attempt_.has_value()) continue;
      now_ = moved = std::max(now_, event.at);
      WEFT_RETURN_IF_ERROR(Handle(event));
      continue;
    }
    now_ += kIdleStep;
    WEFT_RETURN_IF_ERROR(Apply(machine_->OnTick(now_)));
    if (now_ - moved > kLongestWait) {
      return absl::FailedPreconditionError(absl::StrCat("nothing happens any more (", machine_->message(),
                                                        "); lower selection.min_ready or round.min_updates, or change "
                                                        "behaviour.availability"));
    }
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::Apply(server::JobActions actions) {
  std::vector<server::SendEvaluation> evaluations;
  for (const server::JobAction& action : actions) {
    if (const auto* open = std::get_if<server::OpenRound>(&action)) {
      Report();
      if (stopped_) return absl::OkStatus();
      WEFT_RETURN_IF_ERROR(OpenAttempt(*open));
    } else if (const auto* evaluate = std::get_if<server::SendEvaluation>(&action)) {
      evaluations.push_back(*evaluate);
    } else if (const auto* cancel = std::get_if<server::CancelClient>(&action)) {
      if (attempt_.has_value())
        attempt_->works_until.erase(options_.site.population->Find(cancel->client).value_or(-1));
    } else if (std::holds_alternative<server::DropRound>(action)) {
      attempt_.reset();
    } else if (std::holds_alternative<server::CommitRound>(action)) {
      WEFT_RETURN_IF_ERROR(Commit());
    } else if (std::holds_alternative<server::SaveRound>(action)) {
      WEFT_RETURN_IF_ERROR(SaveEvaluation());
    } else if (const auto* end = std::get_if<server::EndJob>(&action)) {
      Report();
      WEFT_RETURN_IF_ERROR(End(*end));
    }
  }
  return evaluations.empty() ? absl::OkStatus() : Evaluate(evaluations);
}

void EngineImpl::Report() {
  const std::vector<server::CommittedRound>& rounds = machine_->history().rounds;
  while (reported_ < static_cast<int64_t>(rounds.size())) {
    if (!(*observer_)(rounds[static_cast<size_t>(reported_++)].status)) stopped_ = true;
  }
}

absl::Status EngineImpl::End(const server::EndJob& end) {
  attempt_.reset();
  if (journal_ == nullptr) return absl::OkStatus();
  return journal_->EndJob(job_id_, end.state, end.message, now_, server::BestRound(machine_->history().rounds));
}

proto::JobStatus EngineImpl::Status() const {
  proto::JobStatus status;
  status.set_job_id(job_id_);
  status.set_name(config().name());
  machine_->FillStatus(now_, &status);
  status.set_adapter_parameters(static_cast<uint64_t>(options_.site.job->layout->num_elements()));
  return status;
}

absl::StatusOr<Adapter> EngineImpl::Export(proto::JobConfig* config) const {
  const std::vector<server::CommittedRound>& rounds = history().rounds;
  const int64_t best = server::BestRound(rounds);
  const std::shared_ptr<const Adapter>& state =
      best < static_cast<int64_t>(rounds.size()) ? best_state_ : broadcast_->state();
  std::vector<Adapter> steps;
  for (const auto& [round, step] : base_steps_) {
    if (round <= best) steps.push_back(step->Clone());
  }
  *config = this->config();
  return server::ExportAdapter(Cut(*state, options_.site.job->layout), steps, options_.site.job->base, config);
}

}  // namespace weft::simulation
