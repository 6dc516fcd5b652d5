// CoordinatorImpl: opening, and the life of jobs from submit to export.

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/forms/form.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "server/coordinator_impl.h"
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
    JobMachine::Options options;
    options.config = from.config;
    options.rejoin_grace = ToDuration(options_.config.rejoin_grace());
    options.history = std::exchange(from.history, {});
    job->machine = std::make_unique<JobMachine>(std::move(options));
    job->stored = std::move(from);
    absl::StatusOr<CheckedJob> checked = CheckJob(job->stored.config, options_.config);
    if (checked.ok()) job->checked = std::move(*checked);
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
  const JobHistory& history = job.machine->history();
  WEFT_ASSIGN_OR_RETURN(Adapter current,
                        journal_->tensors().Get(job.stored.tensors.at(job.machine->last_round()), job.checked.layout));
  job.current = std::make_shared<const Adapter>(std::move(current));
  if (!history.open.has_value()) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(job.fold, MakeFold());
  for (const proto::Update& update : history.open->updates) {
    const std::string& tensors = job.stored.update_tensors.at(update.client_id());
    WEFT_ASSIGN_OR_RETURN(const Adapter adapter, journal_->tensors().Get(tensors, job.fold->update_layout));
    WEFT_RETURN_IF_ERROR(job.fold->aggregator->Accumulate({update.client_id(), update.examples(), adapter}));
    job.machine->AddBytes(static_cast<uint64_t>(adapter.layout().size_bytes()), 0);
  }
  job.stored.update_tensors.clear();
  return absl::OkStatus();
}

absl::StatusOr<std::string> CoordinatorImpl::Submit(proto::JobConfig config, std::optional<Adapter> warm_start) {
  WEFT_ASSIGN_OR_RETURN(CheckedJob checked, CheckJob(std::move(config), options_.config));
  if (!checked.config.warm_start().empty() && !warm_start.has_value()) {
    return absl::InvalidArgumentError(
        "warm_start is set but its tensors were not sent; submit with `weft submit`, which reads the folder");
  }
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
  WEFT_ASSIGN_OR_RETURN(const TensorStore::Pin pin, journal_->tensors().Put(*warm_start));

  MutexLock lock(mutex_);
  if (shut_down_) return absl::UnavailableError("coordinator is shutting down; submit again later");
  WEFT_ASSIGN_OR_RETURN(const int64_t count, journal_->CountJobs());
  auto job = std::make_unique<Job>();
  job->stored.id = absl::StrCat(checked.config.name(), "-", count + 1);
  job->stored.config = checked.config;
  job->stored.submitted = Now();
  job->stored.tensors[0] = pin.hash();
  WEFT_RETURN_IF_ERROR(journal_->AddJob(job->stored));
  JobMachine::Options options;
  options.config = checked.config;
  options.rejoin_grace = ToDuration(options_.config.rejoin_grace());
  job->machine = std::make_unique<JobMachine>(std::move(options));
  job->checked = std::move(checked);
  const std::string id = job->stored.id;
  Logger("server.job")->info("event=submit job={}", id);
  jobs_.push_back(std::move(job));
  StartNextJob();
  Settle(lock);
  return id;
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
  std::erase_if(job.stored.tensors,
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
  const auto tensors = job->stored.tensors.find(round);
  if (tensors == job->stored.tensors.end()) {
    const std::string kept = absl::StrJoin(
        job->stored.tensors, ", ", [](std::string* out, const auto& item) { absl::StrAppend(out, item.first); });
    return absl::NotFoundError(absl::StrCat("round ", round, " of job ", job_id, " is not kept; kept are ", kept));
  }
  if (job->checked.layout == nullptr) {
    WEFT_ASSIGN_OR_RETURN(job->checked, CheckJob(job->stored.config, options_.config));
  }
  ExportedAdapter exported;
  WEFT_ASSIGN_OR_RETURN(Adapter adapter, journal_->tensors().Get(tensors->second, job->checked.layout));
  exported.adapter = std::make_shared<const Adapter>(std::move(adapter));
  exported.info.set_job_id(job_id);
  exported.info.set_round(round);
  if (round > 0 && rounds[static_cast<size_t>(round) - 1].status.has_accuracy()) {
    exported.info.set_accuracy(rounds[static_cast<size_t>(round) - 1].status.accuracy());
  }
  *exported.info.mutable_config() = job->stored.config;
  return exported;
}

Job* CoordinatorImpl::FindJob(const std::string& id) {
  const auto it =
      std::find_if(jobs_.begin(), jobs_.end(), [&](const std::unique_ptr<Job>& job) { return job->stored.id == id; });
  return it == jobs_.end() ? nullptr : it->get();
}

}  // namespace weft::server
