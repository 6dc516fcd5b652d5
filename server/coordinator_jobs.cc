// CoordinatorImpl: opening, and the life of jobs from submit to export.

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/factors.h"
#include "adapters/forms/form.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "server/coordinator_impl.h"
#include "server/export/export_adapter.h"
#include "server/job/duration.h"

namespace weft::server {

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Open(const Options& options) {
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<Journal> journal, Journal::Open(options.config.state_dir()));
  auto coordinator = std::make_unique<CoordinatorImpl>(options, std::move(journal));
  WEFT_RETURN_IF_ERROR(coordinator->Resume());
  return coordinator;
}

CoordinatorImpl::CoordinatorImpl(const Options& options, std::unique_ptr<Journal> journal)
    : options_(options), started_(options.clock->Now()), journal_(std::move(journal)) {}

CoordinatorImpl::~CoordinatorImpl() { Shutdown(); }

absl::Status CoordinatorImpl::Resume() {
  MutexLock lock(mutex_);
  WEFT_RETURN_IF_ERROR(LoadJobs());
  StartNextJob();
  Settle(lock);
  if (options_.tick_interval > absl::ZeroDuration()) ticker_ = std::thread([this] { RunTicks(); });
  return absl::OkStatus();
}

absl::Status CoordinatorImpl::LoadJobs() {
  WEFT_ASSIGN_OR_RETURN(std::vector<StoredJob> stored, journal_->Load());
  for (StoredJob& from : stored) {
    auto job = std::make_unique<Job>();
    absl::StatusOr<CheckedJob> checked = CheckJob(from.config, options_.config);
    if (checked.ok()) job->checked = std::move(*checked);
    job->machine = MakeMachine(from.config, job->checked, std::exchange(from.history, {}));
    job->stored = std::move(from);
    if (job->stored.ended.has_value()) {
      job->machine->End(job->stored.state, job->stored.message, *job->stored.ended);
    } else if (!checked.ok()) {
      return absl::Status(checked.status().code(),
                          absl::StrCat("job ", job->stored.id,
                                       " in the journal can't go on here: ", std::string(checked.status().message())));
    }
    jobs_.push_back(std::move(job));
  }
  return absl::OkStatus();
}

std::unique_ptr<JobMachine> CoordinatorImpl::MakeMachine(const proto::JobConfig& config, const CheckedJob& checked,
                                                         JobHistory history) const {
  JobMachine::Options options;
  options.config = config;
  options.rejoin_grace = ToDuration(options_.config.rejoin_grace());
  options.history = std::move(history);
  if (checked.privacy.has_value()) {
    options.privacy_rounds = checked.privacy->rounds;
    // Amplification by sampling holds against those who don't know who was drawn. A cohort is journaled as it is drawn,
    // so that a restart needs no seed.
    std::random_device secret;
    options.selection_seed = static_cast<uint64_t>(secret()) << 32 | secret();
  }
  return std::make_unique<JobMachine>(std::move(options));
}

void CoordinatorImpl::StartNextJob() {
  if (running_ != nullptr || shut_down_) return;
  const auto next = std::find_if(jobs_.begin(), jobs_.end(), [](const std::unique_ptr<Job>& job) {
    return job->machine->phase() != JobMachine::Phase::kEnded;
  });
  if (next == jobs_.end()) return;
  Job* job = running_ = next->get();
  if (absl::Status status = PrepareRunning(*job); !status.ok()) {
    return Apply(job->machine->End(proto::FAILED, std::string(status.message()), Now()));
  }
  Logger("server.job")
      ->info("event=start job={} committed_rounds={} parameters={}", job->stored.id, job->machine->last_round(),
             job->checked.layout->num_elements());
  Apply(job->machine->Start(Now()));
  if (running_ != job) return;  // it had come to its end, and the one after it was started
  for (auto& [id, client] : clients_) {
    if (client.channel != nullptr) Offer(id, client);
  }
}

absl::Status CoordinatorImpl::PrepareRunning(Job& job) {
  const StoredTensors& last = job.stored.states.at(job.machine->last_round());
  WEFT_ASSIGN_OR_RETURN(Adapter current, journal_->tensors().Get(last.hash, last.layout));
  WEFT_ASSIGN_OR_RETURN(job.current, Broadcast::Create(std::make_shared<const Adapter>(std::move(current))));
  WEFT_RETURN_IF_ERROR(LoadRoleHashes(job));
  const std::optional<OpenAttempt>& open = job.machine->history().open;
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<Fold> fold,
                        MakeFold(job, open.has_value() ? static_cast<int64_t>(open->cohort.size()) : 1));
  job.roles_local = {fold->plan().roles_local().begin(), fold->plan().roles_local().end()};
  if (!open.has_value()) return absl::OkStatus();
  job.fold = std::move(fold);
  return FoldAgain(job, *open);
}

// Of the states that are kept: clients that hold another one download all.
absl::Status CoordinatorImpl::LoadRoleHashes(Job& job) {
  for (const auto& [round, stored] : job.stored.states) {
    WEFT_ASSIGN_OR_RETURN(Adapter state, journal_->tensors().Get(stored.hash, stored.layout));
    WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<Broadcast> broadcast,
                          Broadcast::Create(std::make_shared<const Adapter>(std::move(state))));
    job.role_hashes[round] = broadcast->hashes();
  }
  return absl::OkStatus();
}

// The accepted updates of the attempt under way, in groups that fit the upload memory.
absl::Status CoordinatorImpl::FoldAgain(Job& job, const OpenAttempt& open) {
  const auto limit = static_cast<size_t>(options_.config.upload_memory_bytes());
  std::vector<WaitingUpdate> group;
  size_t held = 0;
  const auto fold = [&]() -> absl::Status {
    WEFT_RETURN_IF_ERROR(job.fold->Accumulate(group));
    group.clear();
    held = 0;
    return absl::OkStatus();
  };
  for (const proto::Update& update : open.updates) {
    const StoredUpdate& stored = job.stored.update_tensors.at(update.client_id());
    WEFT_ASSIGN_OR_RETURN(std::string bytes, journal_->tensors().GetBytes(stored.hash));
    WEFT_ASSIGN_OR_RETURN(const Encoding encoding, ParseEncoding(stored.encoding));
    WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Layout> sent, job.fold->SentAt(update.rank()));
    job.machine->AddBytes(bytes.size(), 0);
    if (!group.empty() && held + bytes.size() > limit) WEFT_RETURN_IF_ERROR(fold());
    held += bytes.size();
    WEFT_ASSIGN_OR_RETURN(EncodedUpdate tensors, EncodedUpdate::FromBytes(sent, encoding, std::move(bytes)));
    group.push_back({update, std::move(tensors), 0});
  }
  job.stored.update_tensors.clear();
  return group.empty() ? absl::OkStatus() : fold();
}

absl::StatusOr<std::string> CoordinatorImpl::Submit(proto::JobConfig config, std::optional<Adapter> warm_start) {
  WEFT_ASSIGN_OR_RETURN(CheckedJob checked, CheckJob(std::move(config), options_.config));
  if (!checked.config.warm_start().empty() && !warm_start.has_value()) {
    return absl::InvalidArgumentError(
        "warm_start is set but its tensors were not sent; submit with `weft submit`, which reads the folder");
  }
  WEFT_ASSIGN_OR_RETURN(const Adapter initial, InitialState(checked, std::move(warm_start)));
  WEFT_RETURN_IF_ERROR(CheckMemory(checked, initial.layout(), KnownCohort(checked.config), options_.config));
  WEFT_ASSIGN_OR_RETURN(const TensorStore::Pin pin, journal_->tensors().Put(initial));

  MutexLock lock(mutex_);
  if (shut_down_) return absl::UnavailableError("coordinator is shutting down; submit again later");
  WEFT_ASSIGN_OR_RETURN(const int64_t count, journal_->CountJobs());
  auto job = std::make_unique<Job>();
  job->stored.id = absl::StrCat(checked.config.name(), "-", count + 1);
  job->stored.config = checked.config;
  job->stored.submitted = Now();
  job->stored.states[0] = {pin.hash(), initial.layout_ptr()};
  WEFT_RETURN_IF_ERROR(journal_->AddJob(job->stored));
  job->machine = MakeMachine(checked.config, checked, {});
  job->checked = std::move(checked);
  const std::string id = job->stored.id;
  Logger("server.job")->info("event=submit job={}", id);
  jobs_.push_back(std::move(job));
  StartNextJob();
  Settle(lock);
  return id;
}

absl::StatusOr<Adapter> CoordinatorImpl::InitialState(const CheckedJob& checked,
                                                      std::optional<Adapter> warm_start) const {
  if (warm_start.has_value()) {
    if (!(warm_start->layout() == *checked.layout)) {
      return absl::InvalidArgumentError(absl::StrCat("the warm start has layout ", warm_start->layout().hash(),
                                                     ", the job's adapter ", checked.layout->hash(),
                                                     "; give the job the form and labels the folder was made with"));
    }
    WEFT_RETURN_IF_ERROR(CheckFinite(*warm_start));
  } else {
    WEFT_ASSIGN_OR_RETURN(
        warm_start, MakeInitialAdapter(checked.config.adapter(), checked.base, checked.layout, checked.config.seed()));
  }
  return checked.rule->InitialState(checked.config, *std::move(warm_start));
}

// The updates that a round of this job will have at least, as far as is known when it is submitted; the cohort of each
// round is looked at again when it opens.
int64_t CoordinatorImpl::KnownCohort(const proto::JobConfig& config) {
  if (config.selection().has_clients()) return config.selection().clients();
  if (config.selection().rule() != "all") return config.round().min_updates();
  MutexLock lock(mutex_);
  const auto connected = std::count_if(clients_.begin(), clients_.end(),
                                       [](const auto& client) { return client.second.channel != nullptr; });
  return std::max<int64_t>({config.selection().min_ready(), config.round().min_updates(), connected});
}

absl::StatusOr<std::shared_ptr<const Layout>> CoordinatorImpl::LayoutFor(const proto::JobConfig& config) {
  WEFT_ASSIGN_OR_RETURN(const CheckedJob checked, CheckJob(config, options_.config));
  return checked.layout;
}

absl::StatusOr<proto::JobStatus> CoordinatorImpl::Stop(const std::string& job_id) {
  MutexLock lock(mutex_);
  Job* job = FindJob(job_id);
  if (job == nullptr) return absl::NotFoundError(absl::StrCat("no job ", job_id, "; `weft list` shows the jobs"));
  if (job->machine->phase() == JobMachine::Phase::kEnded) {
    return absl::FailedPreconditionError(absl::StrCat("job ", job_id, " has already ended"));
  }
  if (shut_down_) return absl::UnavailableError("coordinator is shutting down; stop the job later");
  const std::string message = absl::StrCat("stopped by a user after round ", job->machine->last_round());
  const JobActions actions = job->machine->End(proto::STOPPED, message, Now());
  if (job == running_) {
    Apply(actions);
  } else {
    RecordEnd(*job, std::get<EndJob>(actions.back()));
  }
  Settle(lock);
  return StatusOf(*job);
}

void CoordinatorImpl::EndRunning(const EndJob& end) {
  Job& job = *std::exchange(running_, nullptr);
  RecordEnd(job, end);
  job.fold.reset();
  job.current.reset();
  job.role_hashes.clear();
  proto::ServerMessage ended;
  ended.mutable_job_ended()->set_job_id(job.stored.id);
  ended.mutable_job_ended()->set_reason(end.message);
  for (auto& [id, client] : clients_) {
    SendTo(id, ended);
    client.refused.clear();
    client.activity = "idle";
  }
  StartNextJob();
}

void CoordinatorImpl::RecordEnd(Job& job, const EndJob& end) {
  const int64_t best = BestRound(job.machine->history().rounds);
  job.stored.state = end.state;
  job.stored.message = end.message;
  job.stored.ended = Now();
  Logger("server.job")
      ->info("event=end job={} state={} rounds={} reason=\"{}\"", job.stored.id, proto::JobState_Name(end.state),
             job.machine->last_round(), end.message);
  const absl::Status status = journal_->EndJob(job.stored.id, end.state, end.message, Now(), best);
  if (status.ok()) {
    KeepOnly(job, best);
  } else {
    // A restart finds the job running and comes to the same end again.
    Logger("server.journal")
        ->error("event=end_not_written job={} reason=\"{}\"", job.stored.id, std::string(status.message()));
  }
}

void CoordinatorImpl::KeepOnly(Job& job, int64_t best) {
  const int64_t last = job.machine->last_round();
  std::erase_if(job.stored.states,
                [&](const auto& item) { return item.first != 0 && item.first != best && item.first < last; });
}

absl::StatusOr<ExportedAdapter> CoordinatorImpl::Export(const std::string& job_id, const std::string& which) {
  MutexLock lock(mutex_);
  Job* job = FindJob(job_id);
  if (job == nullptr) return absl::NotFoundError(absl::StrCat("no job ", job_id, "; `weft list` shows the jobs"));
  const std::vector<CommittedRound>& rounds = job->machine->history().rounds;
  int64_t round = 0;
  if (which == "best") {
    round = BestRound(rounds);
  } else if (which == "last") {
    round = job->machine->last_round();
  } else if (!absl::SimpleAtoi(which, &round)) {
    return absl::InvalidArgumentError(
        absl::StrCat("found round \"", which, "\", expected \"best\", \"last\" or a round number"));
  }
  const auto state = job->stored.states.find(round);
  if (state == job->stored.states.end()) {
    const std::string kept = absl::StrJoin(
        job->stored.states, ", ", [](std::string* out, const auto& item) { absl::StrAppend(out, item.first); });
    return absl::NotFoundError(absl::StrCat("round ", round, " of job ", job_id, " is not kept; kept are ", kept));
  }
  if (job->checked.layout == nullptr) {
    WEFT_ASSIGN_OR_RETURN(job->checked, CheckJob(job->stored.config, options_.config));
  }
  ExportedAdapter exported;
  exported.info.set_job_id(job_id);
  exported.info.set_round(round);
  if (round > 0 && rounds[static_cast<size_t>(round) - 1].status.has_accuracy()) {
    exported.info.set_accuracy(rounds[static_cast<size_t>(round) - 1].status.accuracy());
  }
  *exported.info.mutable_config() = job->stored.config;
  const CheckedJob checked = job->checked;
  const StoredTensors values = state->second;
  std::vector<StoredTensors> steps;
  std::vector<TensorStore::Pin> pins;
  pins.push_back(journal_->tensors().Hold(values.hash));
  for (const auto& [step_round, step] : job->stored.base_steps) {
    if (step_round > round) break;
    steps.push_back(step);
    pins.push_back(journal_->tensors().Hold(step.hash));
  }
  lock.unlock();
  WEFT_ASSIGN_OR_RETURN(Adapter adapter, ReadExport(checked, values, steps, exported.info.mutable_config()));
  exported.adapter = std::make_shared<const Adapter>(std::move(adapter));
  return exported;
}

absl::StatusOr<Adapter> CoordinatorImpl::ReadExport(const CheckedJob& checked, const StoredTensors& state,
                                                    const std::vector<StoredTensors>& steps,
                                                    proto::JobConfig* config) const {
  WEFT_ASSIGN_OR_RETURN(const Adapter values, journal_->tensors().Get(state.hash, state.layout));
  std::vector<Adapter> changes;
  for (const StoredTensors& step : steps) {
    WEFT_ASSIGN_OR_RETURN(Adapter change, journal_->tensors().Get(step.hash, step.layout));
    changes.push_back(std::move(change));
  }
  return ExportAdapter(Cut(values, checked.layout), changes, checked.base, config);
}

Job* CoordinatorImpl::FindJob(const std::string& id) {
  const auto it =
      std::find_if(jobs_.begin(), jobs_.end(), [&](const std::unique_ptr<Job>& job) { return job->stored.id == id; });
  return it == jobs_.end() ? nullptr : it->get();
}

}  // namespace weft::server
