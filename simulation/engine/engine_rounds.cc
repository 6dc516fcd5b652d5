// EngineImpl: attempts of rounds, from the plans to the commit.

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/encoding_format.h"
#include "aggregators/core/state.h"
#include "common/status_macros.h"
#include "server/job/duration.h"
#include "simulation/engine/engine_impl.h"
#include "training/data/schedule.h"

namespace weft::simulation {
namespace {

// A client's report that it moves comes in so many parts of the time after which it would count as stalled.
constexpr int64_t kSignsPerTimeout = 2;

}  // namespace

absl::Status EngineImpl::OpenAttempt(const server::OpenRound& open) {
  ++attempts_;
  events_ = {};
  attempt_.emplace();
  const auto updates = static_cast<int64_t>(open.cohort.size());
  WEFT_ASSIGN_OR_RETURN(attempt_->fold, MakeFold(options_.site, broadcast_->state(), open.round, updates));
  if (options_.workers != nullptr) {
    WEFT_RETURN_IF_ERROR(options_.workers->OpenAttempt(open.round, updates, *broadcast_->state(), base_steps_));
  }

  std::vector<std::pair<absl::Duration, CohortClient>> arrivals;
  for (const std::string& name : open.cohort) {
    WEFT_ASSIGN_OR_RETURN(const int64_t client, options_.site.population->Find(name));
    WEFT_ASSIGN_OR_RETURN(const Timeline timeline, TimelineOf(open, client));
    Schedule(client, timeline);
    if (!timeline.answers()) continue;
    const int64_t rows = options_.site.population->TrainRows(client);
    const int64_t batch = std::min(rows, config().training().batch_size());
    arrivals.emplace_back(timeline.uploaded,
                          CohortClient{.index = client,
                                       .name = name,
                                       .max_rank = options_.site.behaviour->MaxRankOf(client),
                                       .hostile = options_.site.behaviour->HostileOf(client),
                                       .tokens = static_cast<double>(batch) * options_.tokens_per_row,
                                       .work = static_cast<double>(RowsFor(config().training(), rows))});
  }
  // As they will be asked for.
  std::sort(arrivals.begin(), arrivals.end(), [](const auto& a, const auto& b) {
    return std::tie(a.first, a.second.index) < std::tie(b.first, b.second.index);
  });
  std::vector<CohortClient> clients;
  for (auto& [at, client] : arrivals) clients.push_back(std::move(client));
  attempt_->cohort = MakeCohort(std::move(clients));
  return absl::OkStatus();
}

// Of a client that gets its plan now, and downloads what it lacks.
absl::StatusOr<Timeline> EngineImpl::TimelineOf(const server::OpenRound& open, int64_t client) {
  const int64_t rows = options_.site.population->TrainRows(client);
  const int64_t rank = attempt_->fold->PlannedRank(options_.site.behaviour->MaxRankOf(client));
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Layout> sent, attempt_->fold->SentAt(rank));
  WEFT_ASSIGN_OR_RETURN(const Encoding encoding, ParseEncoding(config().encoding().values()));
  Work work;
  work.rows = RowsFor(config().training(), rows);
  work.bytes_down = downloads_.BytesFor(client, *broadcast_);
  work.bytes_up = EncodedBytes(*sent, encoding, config().encoding().density());
  const Timeline timeline =
      options_.site.behaviour->TimelineOf({client, open.round, open.attempt, now_ - kStart}, work);
  if (timeline.answers() || timeline.fault_at >= timeline.downloaded) {
    machine_->AddBytes(0, work.bytes_down);
    notes_.add_downloaded(static_cast<uint32_t>(client));
    downloads_.Done(client);
  } else {  // cut off on the way: it begins again the next time
    machine_->AddBytes(0, static_cast<uint64_t>(static_cast<double>(work.bytes_down) *
                                                absl::FDivDuration(timeline.fault_at, timeline.downloaded)));
  }
  return timeline;
}

std::unique_ptr<Cohort> EngineImpl::MakeCohort(std::vector<CohortClient> clients) const {
  Cohort::Options options;
  options.training = TrainingOf(options_.site, layout_, attempt_->fold, received_,
                                [this](int64_t client) { return states_->Get(client); });
  options.threads = options_.site.threads;
  options.tokens_per_pass = options_.tokens_per_pass;
  options.workers = options_.workers;
  // What clients keep travels with the work, both ways.
  if (options_.workers != nullptr && kept_bytes_ > 0) options.most_in_flight = Workers::kMostBytes / kept_bytes_;
  return std::make_unique<Cohort>(std::move(options), std::move(clients));
}

void EngineImpl::Schedule(int64_t client, const Timeline& timeline) {
  const absl::Duration timeout = server::ToDuration(config().round().progress_timeout());
  const auto push = [&](absl::Duration after, Event::Kind kind) {
    events_.push({.at = now_ + after, .client = client, .kind = kind, .attempt = attempts_});
  };
  absl::Duration works_until = timeline.uploaded;
  if (timeline.fault == Timeline::Fault::kLost) {
    push(timeline.fault_at, Event::Kind::kLost);
    push(timeline.fault_at + kRejoinGrace, Event::Kind::kTick);
    if (timeline.back_at.has_value()) {
      push(*timeline.back_at, Event::Kind::kBack);
    } else {
      works_until = timeline.fault_at;
      notes_.set_lost(notes_.lost() + 1);
    }
  } else if (timeline.fault == Timeline::Fault::kHangs) {
    works_until = timeline.fault_at;
    notes_.set_hung(notes_.hung() + 1);
    push(timeline.fault_at + timeout, Event::Kind::kTick);
  }
  if (timeline.answers()) push(timeline.uploaded, Event::Kind::kAnswer);
  attempt_->works_until[client] = now_ + works_until;
  if (works_until > timeout / kSignsPerTimeout) push(timeout / kSignsPerTimeout, Event::Kind::kSign);
}

absl::Status EngineImpl::Handle(const Event& event) {
  const std::string name = event.kind == Event::Kind::kTick ? "" : options_.site.population->Name(event.client);
  switch (event.kind) {
    case Event::Kind::kLost:
      return Apply(machine_->OnLost(name, now_));
    case Event::Kind::kBack:
      return Apply(machine_->OnReady(name, {}, now_));
    case Event::Kind::kSign:
      return ShowSign(event, name);
    case Event::Kind::kAnswer:
      return Answer(event.client, name);
    case Event::Kind::kTick:
      break;
  }
  return Apply(machine_->OnTick(now_));
}

absl::Status EngineImpl::ShowSign(const Event& event, const std::string& name) {
  const auto works = attempt_->works_until.find(event.client);
  if (works == attempt_->works_until.end() || works->second < now_) return absl::OkStatus();
  Event next = event;
  next.at += server::ToDuration(config().round().progress_timeout()) / kSignsPerTimeout;
  events_.push(next);
  const server::JobMachine::Sign sign{machine_->last_round() + 1, "training", ++attempt_->signs[event.client]};
  return Apply(machine_->OnProgress(name, sign, now_));
}

absl::Status EngineImpl::Answer(int64_t client, const std::string& name) {
  const int64_t round = machine_->last_round() + 1;
  if (!machine_->CheckUpdate(name, round).ok()) return absl::OkStatus();  // too late, or taken off the round
  WEFT_ASSIGN_OR_RETURN(absl::StatusOr<SentUpdate> sent, attempt_->cohort->Take(client));
  if (!sent.ok()) {
    if (!absl::IsInvalidArgument(sent.status()) && !absl::IsOutOfRange(sent.status())) return sent.status();
    if (absl::IsOutOfRange(sent.status())) {
      notes_.set_failed(notes_.failed() + 1);
    } else {
      notes_.set_refused(notes_.refused() + 1);
    }
    return Apply(machine_->OnFailure(name, round, std::string(sent.status().message()), now_));
  }
  machine_->AddBytes(sent->bytes, 0);
  if (!sent->valid.ok()) {
    if (!absl::IsInvalidArgument(sent->valid)) return sent->valid;
    notes_.set_refused(notes_.refused() + 1);
    return Apply(machine_->OnFailure(name, round, std::string(sent->valid.message()), now_));
  }
  WEFT_ASSIGN_OR_RETURN(server::JobActions actions, machine_->OnUpdate(sent->facts, now_));
  if (sent->tensors.has_value()) {
    if (options_.on_update) options_.on_update(name, *sent->tensors);
    attempt_->waiting.push_back({std::move(sent->facts), *std::move(sent->tensors), 0});
  } else {
    options_.workers->Accept(sent->rank, client);
  }
  states_->Stage(client, std::move(sent->next));
  if (attempt_->waiting.size() >= server::Fold::kLargestGroup) WEFT_RETURN_IF_ERROR(FoldWaiting());
  return Apply(std::move(actions));
}

absl::Status EngineImpl::FoldWaiting() {
  if (attempt_->waiting.empty()) return absl::OkStatus();
  const absl::Status status = attempt_->fold->Accumulate(attempt_->waiting);
  attempt_->waiting.clear();
  return status;
}

absl::Status EngineImpl::Commit() {
  WEFT_RETURN_IF_ERROR(FoldWaiting());
  if (options_.workers != nullptr) WEFT_RETURN_IF_ERROR(options_.workers->MergeInto(attempt_->fold.get()));
  WEFT_RETURN_IF_ERROR(attempt_->fold->Finish());
  const std::shared_ptr<server::Fold> fold = attempt_->fold;
  attempt_.reset();
  const int64_t round = machine_->last_round() + 1;

  for (const std::string& role : downloads_.Publish(*fold->broadcast, round)) notes_.add_changed_roles(role);
  if (fold->base_step != nullptr) {
    WEFT_RETURN_IF_ERROR(options_.site.trainer->AddToBase(job_id_, round, *fold->base_step));
    base_steps_.emplace_back(round, fold->base_step);
  }
  const proto::RoundStatus summary = Summarise(round);
  WEFT_RETURN_IF_ERROR(states_->Commit(round));
  if (journal_ != nullptr) WEFT_RETURN_IF_ERROR(Record(*fold, summary));
  if (server::BestRound(history().rounds) == round - 1) best_state_ = broadcast_->state();
  WEFT_RETURN_IF_ERROR(Publish(fold->broadcast));
  notes_.Clear();
  return Apply(machine_->OnCommitted(summary, now_));
}

absl::Status EngineImpl::Record(const server::Fold& fold, const proto::RoundStatus& summary) {
  server::RoundTensors tensors;
  WEFT_ASSIGN_OR_RETURN(const server::TensorStore::Pin state, journal_->tensors().Put(*fold.finished));
  tensors.state = {state.hash(), fold.finished->layout_ptr()};
  std::optional<server::TensorStore::Pin> step;
  if (fold.base_step != nullptr) {
    WEFT_ASSIGN_OR_RETURN(server::TensorStore::Pin pin, journal_->tensors().Put(*fold.base_step));
    tensors.base_step = {pin.hash(), fold.base_step->layout_ptr()};
    step.emplace(std::move(pin));
  }
  return journal_->CommitRound(job_id_, {summary, server::Evaluated::kNo}, tensors,
                               server::BestRound(history().rounds));
}

proto::RoundStatus EngineImpl::Summarise(int64_t round) {
  proto::RoundStatus summary = machine_->Summary(now_);
  if (const auto spent = options_.site.job->rule->Spent(config(), round); spent.has_value()) {
    summary.set_epsilon(spent->epsilon);
  }
  notes_.set_clock_us(absl::ToInt64Microseconds(now_ - kStart));
  notes_.set_real_seconds(absl::ToDoubleSeconds(absl::Now() - real_commit_));
  real_commit_ = absl::Now();
  const std::set<uint32_t> downloaded(notes_.downloaded().begin(), notes_.downloaded().end());
  notes_.clear_downloaded();
  for (const uint32_t client : downloaded) notes_.add_downloaded(client);
  for (const proto::Standing& standing : candidates_->TakeChanges()) *notes_.add_standings() = standing;
  *summary.mutable_simulated() = notes_;
  return summary;
}

}  // namespace weft::simulation
