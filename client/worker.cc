#include "client/worker.h"

#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/offer.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace weft {
namespace {

using google::protobuf::util::MessageDifferencer;

// Job and round that a message is about; round -1: the job as a whole.
std::pair<std::string, int64_t> SubjectOf(const proto::ServerMessage& message) {
  switch (message.kind_case()) {
    case proto::ServerMessage::kJob:
      return {message.job().job_id(), -1};
    case proto::ServerMessage::kTrain:
      return {message.train().job_id(), message.train().round()};
    case proto::ServerMessage::kEvaluate:
      return {message.evaluate().job_id(), message.evaluate().round()};
    case proto::ServerMessage::kJobEnded:
      return {message.job_ended().job_id(), -1};
    default:
      return {"", -1};
  }
}

bool IsPlan(const proto::ServerMessage& message) { return message.has_train() || message.has_evaluate(); }

// The coordinator may be gone for a moment; the same call may succeed later.
bool Heals(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsCancelled(status);
}

proto::Progress ProgressOf(const std::string& job_id, int64_t round, const std::string& activity) {
  proto::Progress progress;
  progress.set_job_id(job_id);
  progress.set_round(round);
  progress.set_activity(activity);
  return progress;
}

proto::DownloadRequest RequestOf(const std::string& job_id, int64_t round, const std::string& client_id) {
  proto::DownloadRequest request;
  request.set_job_id(job_id);
  request.set_round(round);
  request.set_client_id(client_id);
  return request;
}

}  // namespace

Worker::Worker(const Options& options) : options_(options), thread_([this] { Run(); }) {}

Worker::~Worker() { Stop(); }

void Worker::SetLink(std::shared_ptr<Link> link) {
  MutexLock lock(mutex_);
  link_ = std::move(link);
  ++connection_;
  std::erase_if(queue_, [](const auto& entry) { return !entry.first.has_job_ended(); });
  changed_.NotifyAll();
}

void Worker::Handle(const proto::ServerMessage& message) {
  if (message.has_job() && AnswerAgain(message.job())) return;
  MutexLock lock(mutex_);
  switch (message.kind_case()) {
    case proto::ServerMessage::kJob:
    case proto::ServerMessage::kTrain:
    case proto::ServerMessage::kEvaluate:
      Enqueue(message);
      break;
    case proto::ServerMessage::kCancel:
      Logger("client")->info("event=cancel job={} round={} reason=\"{}\"", message.cancel().job_id(),
                             message.cancel().round(), message.cancel().reason());
      CancelWork(message.cancel().job_id(), message.cancel().round());
      break;
    case proto::ServerMessage::kJobEnded:
      CancelWork(message.job_ended().job_id(), std::nullopt);
      queue_.emplace_back(message, connection_);
      break;
    default:
      Logger("client")->warn("event=unknown_message action=ignored");
  }
  changed_.NotifyAll();
}

void Worker::Cancel() {
  MutexLock lock(mutex_);
  stopping_ = true;
  queue_.clear();
  if (current_ != nullptr) current_->cancelled = true;
  changed_.NotifyAll();
}

void Worker::Stop() {
  Cancel();
  if (thread_.joinable()) thread_.join();
}

bool Worker::AnswerAgain(const proto::JobOffer& offer) {
  std::shared_ptr<Link> link;
  proto::ClientMessage message;
  {
    MutexLock lock(mutex_);
    const auto known = jobs_.find(offer.job_id());
    if (known == jobs_.end() || !MessageDifferencer::Equals(known->second.offer, offer)) return false;
    link = link_;
    *message.mutable_job_reply() = known->second.reply;
  }
  // When the link is lost again, the offer comes again.
  if (link != nullptr) link->Send(message).IgnoreError();
  return true;
}

void Worker::CancelWork(const std::string& job_id, std::optional<int64_t> round) {
  const auto concerned = [&](const proto::ServerMessage& message) {
    const auto [job, message_round] = SubjectOf(message);
    return job == job_id && !message.has_job_ended() && (!round.has_value() || message_round == *round);
  };
  std::erase_if(queue_, [&](const auto& entry) { return concerned(entry.first); });
  if (current_ != nullptr && concerned(current_->message)) current_->cancelled = true;
}

void Worker::Enqueue(const proto::ServerMessage& message) {
  if (current_ != nullptr && !current_->cancelled) {
    if (MessageDifferencer::Equals(current_->message, message)) {
      current_->connection = connection_;  // asked for again after a reconnect: what is under way will do
      return;
    }
    // Work of a lost connection that the coordinator did not ask for again is not wanted any more.
    const bool other = IsPlan(message) || SubjectOf(message).first != SubjectOf(current_->message).first;
    if (current_->connection != connection_ && other) current_->cancelled = true;
  }
  for (const auto& [queued, connection] : queue_) {
    if (MessageDifferencer::Equals(queued, message)) return;
  }
  queue_.emplace_back(message, connection_);
}

void Worker::Run() {
  while (true) {
    Task task;
    {
      MutexLock lock(mutex_);
      changed_.Wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      std::tie(task.message, task.connection) = std::move(queue_.front());
      queue_.pop_front();
      current_ = &task;
    }
    Execute(task);
  }
}

void Worker::Execute(Task& task) {
  switch (task.message.kind_case()) {
    case proto::ServerMessage::kJob:
      return AnswerOffer(task);
    case proto::ServerMessage::kTrain:
      return Finish(task, CarryOut(task, task.message.train()));
    case proto::ServerMessage::kEvaluate:
      return Finish(task, CarryOut(task, task.message.evaluate()));
    default:
      Logger("client")->info("event=job_ended job={} reason=\"{}\"", task.message.job_ended().job_id(),
                             task.message.job_ended().reason());
      ForgetJob(task.message.job_ended().job_id());
      options_.states->EndJob(task.message.job_ended().job_id());
      options_.trainer->ResetBase(task.message.job_ended().job_id());
      return Finish(task, absl::OkStatus());
  }
}

void Worker::Finish(Task& task, const absl::Status& status) {
  const auto [job, round] = SubjectOf(task.message);
  const std::string text(status.message());
  if (task.cancelled) {
    Logger("client")->info("event=work_cancelled job={} round={}", job, round);
  } else if (absl::IsUnavailable(status)) {
    Logger("client")->info("event=work_interrupted job={} round={} action=\"kept until the coordinator asks again\"",
                           job, round);
  } else if (absl::IsAborted(status) || absl::IsAlreadyExists(status)) {
    Logger("client")->info("event=not_wanted job={} round={} reason=\"{}\"", job, round, text);
  } else if (!status.ok()) {
    Logger("client")->error("event=plan_failed job={} round={} reason=\"{}\"", job, round, text);
    proto::ClientMessage message;
    message.mutable_failure()->set_job_id(job);
    message.mutable_failure()->set_round(round);
    message.mutable_failure()->set_reason(text);
    SendMessage(task, message).IgnoreError();
  }
  MutexLock lock(mutex_);
  current_ = nullptr;
  // Asked for again between the last attempt and now.
  const bool again =
      absl::IsUnavailable(status) && !task.cancelled && task.connection == connection_ && link_ != nullptr;
  if (again && !stopping_) queue_.emplace_front(task.message, connection_);
}

void Worker::AnswerOffer(Task& task) {
  const proto::JobOffer& offer = task.message.job();
  ForgetJob(offer.job_id());
  Job job;
  job.offer = offer;
  job.reply.set_job_id(offer.job_id());
  job.reply.set_max_rank(options_.max_rank);
  absl::StatusOr<std::shared_ptr<const Layout>> layout =
      PrepareOffer(offer, *options_.data, options_.trainer, job.reply.mutable_layout_hash());
  job.reply.set_accepted(layout.ok());
  if (layout.ok()) {
    job.layout = *std::move(layout);
    Logger("client")->info("event=job_accepted job={} name={} parameters={}", offer.job_id(), offer.name(),
                           job.layout->num_elements());
  } else {
    job.reply.set_reason(std::string(layout.status().message()));
    Logger("client")->warn("event=job_refused job={} name={} reason=\"{}\"", offer.job_id(), offer.name(),
                           job.reply.reason());
  }
  proto::ClientMessage message;
  *message.mutable_job_reply() = job.reply;
  {
    MutexLock lock(mutex_);
    jobs_[offer.job_id()] = std::move(job);
  }
  const absl::Status sent = SendMessage(task, message);
  Finish(task, absl::IsUnavailable(sent) ? sent : absl::OkStatus());
}

absl::Status Worker::CarryOut(Task& task, const proto::Plan& plan) {
  if (!trained_.has_value() || !MessageDifferencer::Equals(trained_->plan, plan))
    WEFT_RETURN_IF_ERROR(Train(task, plan));
  const auto progress =
      Reporter(task, ProgressOf(plan.job_id(), plan.round(), "uploading"), plan.progress_interval_ms());
  const LocalResult& result = trained_->result;
  const absl::Status sent = WithLink(
      task, [&](Link& link) { return link.Upload(result.update, result.tensors, result.components, progress); });
  if (sent.ok() || absl::IsAlreadyExists(sent)) Commit(*trained_);
  if (sent.ok()) Logger("client")->info("event=uploaded job={} round={}", plan.job_id(), plan.round());
  return sent;
}

void Worker::Commit(const TrainedUpdate& trained) {
  const proto::Plan& plan = trained.plan;
  const absl::Status kept = options_.states->Put(plan.job_id(), options_.client_id, trained.result.next);
  if (kept.ok()) return;
  Logger("client")->error(
      "event=kept_state_not_written job={} round={} note=\"lost if this process ends\" reason=\"{}\"", plan.job_id(),
      plan.round(), std::string(kept.message()));
}

absl::Status Worker::Train(Task& task, const proto::Plan& plan) {
  trained_.reset();
  const DataShard* shard = options_.data->split("train");
  if (shard == nullptr) {
    return absl::FailedPreconditionError(
        "the data folder has no split \"train\"; run `weft prepare` with training rows");
  }
  WEFT_ASSIGN_OR_RETURN(const LocalJob job, JobOf(plan.job_id()));
  const proto::DownloadRequest request = RequestOf(plan.job_id(), plan.round() - 1, options_.client_id);
  const auto moved =
      Reporter(task, ProgressOf(plan.job_id(), plan.round(), "downloading"), plan.progress_interval_ms());
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Adapter> state, Fetch(task, request, moved));
  if (plan.base_residual()) WEFT_RETURN_IF_ERROR(StepBase(task, request, *state, moved));
  WEFT_ASSIGN_OR_RETURN(LocalUpdate local,
                        LocalUpdate::Begin(job, plan, state, options_.states->Get(plan.job_id(), options_.client_id)));
  const CohortMember member = local.Member(options_.client_id, shard);
  const auto report = Reporter(task, ProgressOf(plan.job_id(), plan.round(), "training"), plan.progress_interval_ms());
  Logger("client")->info("event=training job={} round={} rows={} rank={}", plan.job_id(), plan.round(), shard->rows(),
                         local.rank());
  WEFT_ASSIGN_OR_RETURN(
      std::vector<absl::StatusOr<TrainResult>> results,
      options_.trainer->Train(plan, {&member, 1}, [&](int64_t done, int64_t total) { return report(done, total); }));
  WEFT_ASSIGN_OR_RETURN(const TrainResult trained, std::move(results.front()));
  const proto::TrainMetrics& metrics = trained.metrics;
  Logger("client")->info("event=trained job={} round={} steps={} loss={:.4f} seconds={:.1f}", plan.job_id(),
                         plan.round(), metrics.steps(), metrics.loss(), metrics.seconds());
  WEFT_ASSIGN_OR_RETURN(LocalResult result, std::move(local).End(options_.client_id, shard->rows(), trained));
  trained_.emplace(TrainedUpdate{plan, std::move(result)});
  return absl::OkStatus();
}

absl::Status Worker::CarryOut(Task& task, const proto::EvaluationPlan& plan) {
  if (!evaluated_.has_value() || !MessageDifferencer::Equals(evaluated_->plan, plan)) {
    WEFT_ASSIGN_OR_RETURN(proto::Evaluation evaluation, Evaluate(task, plan));
    evaluated_.emplace(Evaluated{plan, std::move(evaluation)});
  }
  const proto::Evaluation& evaluation = evaluated_->evaluation;
  proto::ClientMessage message;
  *message.mutable_evaluation() = evaluation;
  WEFT_RETURN_IF_ERROR(SendMessage(task, message));
  Logger("client")->info("event=evaluated job={} round={} correct={} of={}", plan.job_id(), plan.round(),
                         evaluation.correct(), evaluation.examples());
  return absl::OkStatus();
}

absl::StatusOr<proto::Evaluation> Worker::Evaluate(Task& task, const proto::EvaluationPlan& plan) {
  const DataShard* shard = options_.data->split(plan.split());
  if (shard == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("the data folder has no split \"", plan.split(),
                                                      "\"; prepare it or name another in the job's evaluation.split"));
  }
  WEFT_ASSIGN_OR_RETURN(const LocalJob job, JobOf(plan.job_id()));
  const proto::DownloadRequest request = RequestOf(plan.job_id(), plan.round(), options_.client_id);
  const auto moved =
      Reporter(task, ProgressOf(plan.job_id(), plan.round(), "downloading"), plan.progress_interval_ms());
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Adapter> state, Fetch(task, request, moved));
  if (plan.base_residual()) WEFT_RETURN_IF_ERROR(StepBase(task, request, *state, moved));
  WEFT_ASSIGN_OR_RETURN(const Adapter adapter,
                        EvaluatedAdapter(job, plan, *state, *options_.states->Get(plan.job_id(), options_.client_id)));
  const CohortMember member{.client_id = options_.client_id, .start = &adapter, .shard = shard};
  const auto report =
      Reporter(task, ProgressOf(plan.job_id(), plan.round(), "evaluating"), plan.progress_interval_ms());
  WEFT_ASSIGN_OR_RETURN(
      std::vector<absl::StatusOr<proto::Evaluation>> results,
      options_.trainer->Evaluate(plan, {&member, 1}, [&](int64_t done, int64_t total) { return report(done, total); }));
  return std::move(results.front());
}

absl::StatusOr<LocalJob> Worker::JobOf(const std::string& job_id) {
  MutexLock lock(mutex_);
  const auto job = jobs_.find(job_id);
  if (job == jobs_.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("found a plan of job ", job_id, ", which was not offered on this client"));
  }
  if (job->second.layout == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("found a plan of job ", job_id, ", which this client refused: ", job->second.reply.reason()));
  }
  return LocalJob{job->second.offer.adapter(), job->second.layout, options_.max_rank};
}

absl::StatusOr<std::shared_ptr<const Adapter>> Worker::Fetch(Task& task, const proto::DownloadRequest& request,
                                                             const BytesFunction& report) {
  WEFT_ASSIGN_OR_RETURN(const LocalJob job, JobOf(request.job_id()));
  const bool held = downloaded_.has_value() && downloaded_->job_id == request.job_id();
  if (held && downloaded_->round == request.round()) return downloaded_->state;
  proto::DownloadRequest rest = request;
  if (held) {
    rest.set_have_round(downloaded_->round);
  } else {
    downloaded_.reset();
  }
  WEFT_RETURN_IF_ERROR(WithLink(task, [&](Link& link) -> absl::Status {
    WEFT_ASSIGN_OR_RETURN(Adapter state,
                          link.Download(rest, held ? downloaded_->state.get() : nullptr, job.layout, report));
    downloaded_.emplace(Download{request.job_id(), request.round(), std::make_shared<const Adapter>(std::move(state))});
    return absl::OkStatus();
  }));
  return downloaded_->state;
}

absl::Status Worker::StepBase(Task& task, const proto::DownloadRequest& request, const Adapter& state,
                              const BytesFunction& report) {
  WEFT_ASSIGN_OR_RETURN(const LocalJob job, JobOf(request.job_id()));
  Trainer& trainer = *options_.trainer;
  const std::string& job_id = request.job_id();
  // Steps are not undone one by one: an earlier round starts from the base as it is.
  if (trainer.base_round(job_id) > request.round()) trainer.ResetBase(job_id);
  while (trainer.base_round(job_id) + 1 < request.round()) {
    proto::DownloadRequest missed = request;
    missed.set_round(trainer.base_round(job_id) + 1);
    missed.set_base_step(true);
    WEFT_RETURN_IF_ERROR(WithLink(task, [&](Link& link) -> absl::Status {
      WEFT_ASSIGN_OR_RETURN(const Adapter step, link.Download(missed, nullptr, job.layout, report));
      return trainer.AddToBase(job_id, missed.round(), step);
    }));
  }
  if (trainer.base_round(job_id) == request.round()) return absl::OkStatus();
  return trainer.AddToBase(job_id, request.round(), state);
}

void Worker::ForgetJob(const std::string& job_id) {
  if (downloaded_.has_value() && downloaded_->job_id == job_id) downloaded_.reset();
  if (trained_.has_value() && trained_->plan.job_id() == job_id) trained_.reset();
  if (evaluated_.has_value() && evaluated_->plan.job_id() == job_id) evaluated_.reset();
  MutexLock lock(mutex_);
  jobs_.erase(job_id);
}

absl::Status Worker::WithLink(Task& task, const Attempt& attempt) {
  Backoff backoff(options_.retry_min, options_.retry_max, options_.seed);
  while (true) {
    const std::shared_ptr<Link> link = LinkOf(task);
    if (task.cancelled) return absl::CancelledError("cancelled");
    if (link == nullptr) return absl::UnavailableError("the connection to the coordinator is lost");
    const absl::Status status = attempt(*link);
    if (!Heals(status) || task.cancelled) return status;
    Logger("client")->warn("event=transfer_failed action=retry reason=\"{}\"", std::string(status.message()));
    MutexLock lock(mutex_);
    changed_.WaitFor(lock, backoff.Next(),
                     [&] { return task.cancelled || stopping_ || task.connection != connection_; });
  }
}

absl::Status Worker::SendMessage(Task& task, const proto::ClientMessage& message) {
  return WithLink(task, [&](Link& link) { return link.Send(message); });
}

std::shared_ptr<Link> Worker::LinkOf(const Task& task) {
  MutexLock lock(mutex_);
  return task.connection == connection_ ? link_ : nullptr;
}

Worker::BytesFunction Worker::Reporter(Task& task, proto::Progress progress, uint32_t interval_ms) {
  return [this, &task, message = proto::ClientMessage(), progress = std::move(progress), interval_ms,
          last = absl::InfinitePast()](uint64_t done, uint64_t total) mutable {
    const absl::Time now = options_.clock->Now();
    if (task.cancelled) return false;
    if (now - last < absl::Milliseconds(interval_ms)) return true;
    last = now;
    progress.set_done(static_cast<int64_t>(done));
    progress.set_total(static_cast<int64_t>(total));
    *message.mutable_progress() = progress;
    // A lost progress message is made up for by the next.
    if (const std::shared_ptr<Link> link = LinkOf(task); link != nullptr) link->Send(message).IgnoreError();
    return !task.cancelled.load();
  };
}

}  // namespace weft
