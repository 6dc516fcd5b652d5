// CoordinatorImpl: adapters going down and updates coming up.

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "server/coordinator_impl.h"

namespace weft::server {
namespace {

absl::Status CheckFacts(const proto::Update& update) {
  if (update.examples() == 0) {
    return absl::InvalidArgumentError("update: found 0 examples, expected at least 1; give the client training rows");
  }
  if (!std::isfinite(update.metrics().loss()) || !std::isfinite(update.metrics().final_loss())) {
    return absl::InvalidArgumentError(absl::StrCat("update: found training loss ", update.metrics().loss(),
                                                   ", expected a finite number; lower the learning rate"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StateDownload> CoordinatorImpl::Download(const proto::DownloadRequest& request) {
  MutexLock lock(mutex_);
  if (shut_down_) return absl::UnavailableError("coordinator is shutting down");
  if (FindJob(request.job_id()) == nullptr) return absl::NotFoundError(absl::StrCat("no job ", request.job_id()));
  const auto client = clients_.find(request.client_id());
  if (client == clients_.end() || client->second.channel == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("client ", request.client_id(), " is not connected; say hello first"));
  }
  if (running_ == nullptr || running_->stored.id != request.job_id()) {
    return absl::AbortedError(absl::StrCat("job ", request.job_id(), " is not running; wait for a plan"));
  }
  StateDownload download;
  uint64_t bytes = 0;
  if (request.base_step()) {
    WEFT_ASSIGN_OR_RETURN(download, BaseStep(*running_, request.round()));
    bytes = static_cast<uint64_t>(download.layout->size_bytes());
  } else {
    if (request.round() != running_->machine->last_round()) {
      return absl::AbortedError(absl::StrCat("found round ", request.round(), ", plans start from round ",
                                             running_->machine->last_round(),
                                             " now; drop this work and wait for a plan"));
    }
    const Broadcast& current = *running_->current;
    download = {current.state(), current.layout(), running_->checked.layout, {}};
    const auto held =
        request.has_have_round() ? running_->role_hashes.find(request.have_round()) : running_->role_hashes.end();
    if (held != running_->role_hashes.end()) download.roles = current.Lacking(held->second);
    bytes = current.SizeBytes(download.roles);
  }
  client->second.bytes_down += bytes;
  running_->machine->AddBytes(0, bytes);
  Changed();
  return download;
}

absl::StatusOr<StateDownload> CoordinatorImpl::BaseStep(Job& job, int64_t round) {
  const auto stored = job.stored.base_steps.find(round);
  if (stored == job.stored.base_steps.end()) {
    return absl::NotFoundError(absl::StrCat("round ", round, " of job ", job.stored.id,
                                            " has made no step of the base; ask for rounds from 1 to ",
                                            job.machine->last_round(), " of a rule that changes the base"));
  }
  WEFT_ASSIGN_OR_RETURN(Adapter step, journal_->tensors().Get(stored->second.hash, stored->second.layout));
  return StateDownload{std::make_shared<const Adapter>(std::move(step)), stored->second.layout, job.checked.layout, {}};
}

absl::StatusOr<UploadTicket> CoordinatorImpl::BeginUpload(const proto::UploadStart& start) {
  MutexLock lock(mutex_);
  const proto::Update& update = start.update();
  const absl::StatusOr<UpdateDecoder::Options> expected = CheckUpload(start);
  if (!expected.ok()) {
    if (absl::IsInvalidArgument(expected.status())) FailUpload(update, expected.status());
    Settle(lock);
    return expected.status();
  }
  ShowActivity(update.client_id(), "uploading");
  for (auto& [id, ticket] : tickets_) {
    if (ticket.update.client_id() == update.client_id()) ticket.replaced = true;
  }
  const uint64_t bytes = UpdateDecoder::MemoryBytes(*expected);
  WEFT_RETURN_IF_ERROR(ReserveMemory(lock, update, bytes));
  const uint64_t id = next_ticket_++;
  tickets_[id] = Ticket{update, bytes, 0, false};
  return UploadTicket{id, *expected};
}

absl::StatusOr<UpdateDecoder::Options> CoordinatorImpl::CheckUpload(const proto::UploadStart& start) {
  if (shut_down_) return absl::UnavailableError("coordinator is shutting down");
  const proto::Update& update = start.update();
  WEFT_RETURN_IF_ERROR(CheckWanted(update));
  WEFT_RETURN_IF_ERROR(CheckFacts(update));
  const auto client = clients_.find(update.client_id());
  const int64_t max_rank = client == clients_.end() ? 0 : client->second.max_rank;
  WEFT_ASSIGN_OR_RETURN(UpdateDecoder::Options expected, running_->fold->Expect(update.rank(), max_rank));
  WEFT_RETURN_IF_ERROR(UpdateDecoder::Create(start.header(), expected).status());
  return expected;
}

absl::Status CoordinatorImpl::CheckWanted(const proto::Update& update) {
  if (FindJob(update.job_id()) == nullptr) return absl::NotFoundError(absl::StrCat("no job ", update.job_id()));
  if (running_ == nullptr || running_->stored.id != update.job_id()) {
    return absl::AbortedError(absl::StrCat("job ", update.job_id(), " is not running; drop this work"));
  }
  return running_->machine->CheckUpdate(update.client_id(), update.round());
}

absl::Status CoordinatorImpl::ReserveMemory(MutexLock& lock, const proto::Update& update, uint64_t bytes) {
  const auto limit = static_cast<uint64_t>(options_.config.upload_memory_bytes());
  if (reserved_bytes_ + bytes > limit) {
    Logger("server.upload")
        ->info("event=wait_for_memory job={} round={} client={} reserved_bytes={}", update.job_id(), update.round(),
               update.client_id(), reserved_bytes_);
    const auto waiting = waiting_uploads_.insert({update.client_id(), update.round()});
    absl::Status wanted;
    changed_.Wait(lock, [&] {
      wanted = shut_down_ ? absl::UnavailableError("coordinator is shutting down") : CheckWanted(update);
      return !wanted.ok() || reserved_bytes_ + bytes <= limit;
    });
    waiting_uploads_.erase(waiting);
    WEFT_RETURN_IF_ERROR(wanted);
  }
  reserved_bytes_ += bytes;
  return absl::OkStatus();
}

absl::Status CoordinatorImpl::CheckTicket(uint64_t ticket_id) {
  const auto it = tickets_.find(ticket_id);
  if (shut_down_) return absl::UnavailableError("coordinator is shutting down");
  if (it == tickets_.end()) return absl::FailedPreconditionError("unknown upload; begin it again");
  if (it->second.replaced) return absl::AbortedError("a newer upload of the same client took the place of this one");
  return CheckWanted(it->second.update);
}

absl::Status CoordinatorImpl::UploadProgress(uint64_t ticket_id, uint64_t bytes) {
  MutexLock lock(mutex_);
  WEFT_RETURN_IF_ERROR(CheckTicket(ticket_id));
  Ticket& ticket = tickets_.at(ticket_id);
  const uint64_t more = bytes - std::min(bytes, ticket.received_bytes);
  ticket.received_bytes += more;
  const std::string& client_id = ticket.update.client_id();
  if (const auto client = clients_.find(client_id); client != clients_.end()) {
    client->second.bytes_up += more;
    client->second.last_seen = Now();
  }
  running_->machine->AddBytes(more, 0);
  const JobMachine::Sign sign{ticket.update.round(), "receiving", static_cast<int64_t>(ticket.received_bytes)};
  Apply(running_->machine->OnProgress(client_id, sign, Now()));
  Settle(lock);
  return absl::OkStatus();
}

absl::Status CoordinatorImpl::FinishUpload(uint64_t ticket_id, EncodedUpdate update) {
  MutexLock lock(mutex_);
  absl::Status status = CheckTicket(ticket_id);
  if (status.ok()) {
    const std::string client = tickets_.at(ticket_id).update.client_id();
    const std::shared_ptr<Fold> fold = running_->fold;
    ++fold->arriving;
    ShowActivity(client, "checking");
    status = TakeIn(lock, ticket_id, fold, std::move(update));
    --fold->arriving;
    if (!status.ok()) ShowActivity(client, "idle");
    FoldWaiting(lock, *fold);
  }
  DropTicket(ticket_id);
  Settle(lock);
  return status;
}

absl::Status CoordinatorImpl::TakeIn(MutexLock& lock, uint64_t ticket_id, const std::shared_ptr<Fold>& fold,
                                     EncodedUpdate tensors) {
  const proto::Update update = tickets_.at(ticket_id).update;

  lock.unlock();
  absl::Status status = fold->Validate({update.client_id(), update.examples(), tensors, update.rank()});
  absl::StatusOr<TensorStore::Pin> stored = status.ok() ? journal_->tensors().Put(tensors.bytes()) : status;
  lock.lock();

  if (absl::IsInvalidArgument(status)) FailUpload(update, status);
  WEFT_RETURN_IF_ERROR(stored.status());
  // The round may have ended meanwhile, or another attempt of it begun.
  WEFT_RETURN_IF_ERROR(CheckTicket(ticket_id));
  if (running_->fold != fold) return absl::AbortedError("this attempt of the round was given up; wait for a plan");
  status = journal_->AddUpdate(running_->stored.id, update, {stored->hash(), EncodingName(tensors.encoding())});
  if (!status.ok()) {
    Logger("server.journal")
        ->error("event=update_not_written job={} round={} client={} reason=\"{}\"", update.job_id(), update.round(),
                update.client_id(), std::string(status.message()));
    return status;
  }
  absl::StatusOr<JobActions> actions = running_->machine->OnUpdate(update, Now());
  if (!actions.ok()) return actions.status();
  fold->waiting.push_back({update, std::move(tensors), std::exchange(tickets_.at(ticket_id).reserved_bytes, 0)});
  Accepted(update);
  Apply(*std::move(actions));
  return absl::OkStatus();
}

// What comes while a group is folded is the next group. An update that is left waiting is folded by whoever comes last.
void CoordinatorImpl::FoldWaiting(MutexLock& lock, Fold& fold) {
  while (fold.Due()) {
    fold.folding = true;
    std::vector<WaitingUpdate> group = std::exchange(fold.waiting, {});
    uint64_t bytes = 0;
    for (const WaitingUpdate& update : group) bytes += update.reserved_bytes;
    const bool wanted = !shut_down_ && running_ != nullptr && running_->fold.get() == &fold;
    lock.unlock();
    const absl::Status status = wanted ? fold.Accumulate(group) : absl::OkStatus();
    group.clear();
    lock.lock();
    fold.folding = false;
    GiveBack(bytes);
    if (!status.ok()) FailRunning(fold, status);
  }
}

void CoordinatorImpl::ShowActivity(const std::string& client_id, const char* activity) {
  const auto client = clients_.find(client_id);
  if (client != clients_.end()) client->second.activity = activity;
  Changed();
}

void CoordinatorImpl::Accepted(const proto::Update& update) {
  Logger("server.round")
      ->info("event=update job={} round={} client={} examples={} loss={:.4f}", update.job_id(), update.round(),
             update.client_id(), update.examples(), update.metrics().loss());
  const auto client = clients_.find(update.client_id());
  if (client == clients_.end()) return;
  client->second.activity = "idle";
  if (update.metrics().seconds() > 0) {
    client->second.tokens_per_second = static_cast<double>(update.metrics().tokens()) / update.metrics().seconds();
  }
}

void CoordinatorImpl::AbandonUpload(uint64_t ticket_id, const absl::Status& why) {
  MutexLock lock(mutex_);
  const auto it = tickets_.find(ticket_id);
  if (it == tickets_.end()) return;
  const proto::Update update = it->second.update;
  const bool wanted = CheckTicket(ticket_id).ok();
  DropTicket(ticket_id);
  // Bad content would come again; a broken transport may heal.
  if (wanted && absl::IsInvalidArgument(why)) {
    FailUpload(update, why);
  } else {
    Logger("server.upload")
        ->warn("event=upload_broken job={} round={} client={} reason=\"{}\"", update.job_id(), update.round(),
               update.client_id(), std::string(why.message()));
  }
  Settle(lock);
}

void CoordinatorImpl::FailUpload(const proto::Update& update, const absl::Status& why) {
  const std::string reason(why.message());
  Logger("server.upload")
      ->warn("event=update_refused job={} round={} client={} reason=\"{}\"", update.job_id(), update.round(),
             update.client_id(), reason);
  if (running_ == nullptr || running_->stored.id != update.job_id()) return;
  Apply(running_->machine->OnFailure(update.client_id(), update.round(), reason, Now()));
}

void CoordinatorImpl::DropTicket(uint64_t ticket_id) {
  const auto it = tickets_.find(ticket_id);
  if (it == tickets_.end()) return;
  const uint64_t bytes = it->second.reserved_bytes;
  tickets_.erase(it);
  GiveBack(bytes);
}

void CoordinatorImpl::GiveBack(uint64_t bytes) {
  reserved_bytes_ -= bytes;
  changed_.NotifyAll();
}

}  // namespace weft::server
