#include "client/worker.h"

#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <set>
#include <span>
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

// The tensors of `roles`, in layout order.
absl::StatusOr<Adapter> SelectRoles(Adapter adapter, const google::protobuf::RepeatedPtrField<std::string>& roles) {
  const std::set<std::string> wanted(roles.begin(), roles.end());
  std::vector<TensorSpec> sent;
  for (const TensorSpec& spec : adapter.layout().tensors()) {
    if (wanted.count(spec.role) > 0) sent.push_back(spec);
  }
  if (sent.size() == adapter.layout().tensors().size()) return adapter;
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, Layout::Create(std::move(sent)));
  Adapter selected(layout);
  for (const TensorSpec& spec : layout->tensors()) {
    const std::span<const float> from = std::as_const(adapter).tensor(*adapter.layout().Find(spec.name));
    std::copy(from.begin(), from.end(), selected.tensor(spec).begin());
  }
  return selected;
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
  WEFT_RETURN_IF_ERROR(
      WithLink(task, [&](Link& link) { return link.Upload(trained_->update, trained_->adapter, progress); }));
  Logger("client")->info("event=uploaded job={} round={}", plan.job_id(), plan.round());
  return absl::OkStatus();
}

absl::Status Worker::Train(Task& task, const proto::Plan& plan) {
  trained_.reset();
  const DataShard* shard = options_.data->split("train");
  if (shard == nullptr) {
    return absl::FailedPreconditionError(
        "the data folder has no split \"train\"; run `weft prepare` with training rows");
  }
  WEFT_ASSIGN_OR_RETURN(const Adapter* start,
                        Fetch(task, plan.job_id(), plan.round() - 1,
                              ProgressOf(plan.job_id(), plan.round(), "downloading"), plan.progress_interval_ms()));
  const CohortMember member{options_.client_id, start, shard, plan.seed()};
  const auto report = Reporter(task, ProgressOf(plan.job_id(), plan.round(), "training"), plan.progress_interval_ms());
  Logger("client")->info("event=training job={} round={} rows={}", plan.job_id(), plan.round(), shard->rows());
  WEFT_ASSIGN_OR_RETURN(
      std::vector<TrainResult> results,
      options_.trainer->Train(plan, {&member, 1}, [&](int64_t done, int64_t total) { return report(done, total); }));
  TrainResult& result = results.front();
  WEFT_ASSIGN_OR_RETURN(Adapter sent, SelectRoles(std::move(result.adapter), plan.roles_sent()));
  proto::Update update;
  update.set_job_id(plan.job_id());
  update.set_round(plan.round());
  update.set_client_id(options_.client_id);
  update.set_examples(shard->rows());
  *update.mutable_metrics() = result.metrics;
  Logger("client")->info("event=trained job={} round={} steps={} loss={:.4f} seconds={:.1f}", plan.job_id(),
                         plan.round(), result.metrics.steps(), result.metrics.loss(), result.metrics.seconds());
  trained_.emplace(TrainedUpdate{plan, std::move(update), std::move(sent)});
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
  WEFT_ASSIGN_OR_RETURN(const Adapter* adapter,
                        Fetch(task, plan.job_id(), plan.round(), ProgressOf(plan.job_id(), plan.round(), "downloading"),
                              plan.progress_interval_ms()));
  const CohortMember member{options_.client_id, adapter, shard, 0};
  const auto report =
      Reporter(task, ProgressOf(plan.job_id(), plan.round(), "evaluating"), plan.progress_interval_ms());
  WEFT_ASSIGN_OR_RETURN(
      std::vector<proto::Evaluation> results,
      options_.trainer->Evaluate(plan, {&member, 1}, [&](int64_t done, int64_t total) { return report(done, total); }));
  return std::move(results.front());
}

absl::StatusOr<std::shared_ptr<const Layout>> Worker::LayoutOf(const std::string& job_id) {
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
  return job->second.layout;
}

absl::StatusOr<const Adapter*> Worker::Fetch(Task& task, const std::string& job_id, int64_t round,
                                             proto::Progress progress, uint32_t interval_ms) {
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Layout> layout, LayoutOf(job_id));
  if (downloaded_.has_value() && downloaded_->job_id == job_id && downloaded_->round == round)
    return &downloaded_->adapter;
  downloaded_.reset();
  proto::DownloadRequest request;
  request.set_job_id(job_id);
  request.set_round(round);
  request.set_client_id(options_.client_id);
  const auto report = Reporter(task, std::move(progress), interval_ms);
  WEFT_RETURN_IF_ERROR(WithLink(task, [&](Link& link) -> absl::Status {
    WEFT_ASSIGN_OR_RETURN(Adapter adapter, link.Download(request, layout, report));
    downloaded_.emplace(Download{job_id, round, std::move(adapter)});
    return absl::OkStatus();
  }));
  return &downloaded_->adapter;
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

std::function<bool(uint64_t, uint64_t)> Worker::Reporter(Task& task, proto::Progress progress, uint32_t interval_ms) {
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
