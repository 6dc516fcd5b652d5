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

absl::Status CheckFacts(const proto::Update& update, const proto::TensorHeader& header, const Layout& layout) {
  if (update.examples() == 0) {
    return absl::InvalidArgumentError("update: found 0 examples, expected at least 1; give the client training rows");
  }
  if (!std::isfinite(update.metrics().loss()) || !std::isfinite(update.metrics().final_loss())) {
    return absl::InvalidArgumentError(absl::StrCat("update: found training loss ", update.metrics().loss(),
                                                   ", expected a finite number; lower the learning rate"));
  }
  if (header.layout_hash() != layout.hash()) {
    return absl::InvalidArgumentError(absl::StrCat("update: found layout ", header.layout_hash(), ", expected ",
                                                   layout.hash(),
                                                   "; run the same version of Weft on coordinator and client"));
  }
  if (header.total_bytes() != static_cast<uint64_t>(layout.size_bytes())) {
    return absl::InvalidArgumentError(
        absl::StrCat("update: found ", header.total_bytes(), " bytes, expected the layout's ", layout.size_bytes()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Adapter>> CoordinatorImpl::Download(const proto::DownloadRequest& request) {
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
  if (request.round() != running_->machine->last_round()) {
    return absl::AbortedError(absl::StrCat("found round ", request.round(), ", plans start from round ",
                                           running_->machine->last_round(),
                                           " now; drop this work and wait for a plan"));
  }
  const auto bytes = static_cast<uint64_t>(running_->current->layout().size_bytes());
  client->second.bytes_down += bytes;
  running_->machine->AddBytes(0, bytes);
  Changed();
  return running_->current;
}

absl::StatusOr<UploadTicket> CoordinatorImpl::BeginUpload(const proto::UploadStart& start) {
  MutexLock lock(mutex_);
  const proto::Update& update = start.update();
  if (absl::Status status = CheckUpload(start); !status.ok()) {
    if (absl::IsInvalidArgument(status)) FailUpload(update, status);
    Settle(lock);
    return status;
  }
  if (const auto client = clients_.find(update.client_id()); client != clients_.end()) {
    client->second.activity = "uploading";
    Changed();
  }
  for (auto& [id, ticket] : tickets_) {
    if (ticket.update.client_id() == update.client_id()) ticket.replaced = true;
  }
  const std::shared_ptr<const Layout> layout = running_->fold->update_layout;
  const auto bytes = static_cast<uint64_t>(layout->size_bytes());
  WEFT_RETURN_IF_ERROR(ReserveMemory(lock, update, bytes));
  const uint64_t id = next_ticket_++;
  tickets_[id] = Ticket{update, bytes, 0, false};
  return UploadTicket{id, layout};
}

absl::Status CoordinatorImpl::CheckUpload(const proto::UploadStart& start) {
  if (shut_down_) return absl::UnavailableError("coordinator is shutting down");
  const proto::Update& update = start.update();
  WEFT_RETURN_IF_ERROR(CheckWanted(update));
  return CheckFacts(update, start.header(), *running_->fold->update_layout);
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

absl::Status CoordinatorImpl::FinishUpload(uint64_t ticket_id, Adapter adapter) {
  MutexLock lock(mutex_);
  absl::Status status = CheckTicket(ticket_id);
  if (status.ok()) status = TakeIn(lock, ticket_id, adapter);
  DropTicket(ticket_id);
  Settle(lock);
  return status;
}

absl::Status CoordinatorImpl::TakeIn(MutexLock& lock, uint64_t ticket_id, const Adapter& adapter) {
  const proto::Update update = tickets_.at(ticket_id).update;
  const std::shared_ptr<Fold> fold = running_->fold;
  const aggregators::ClientUpdate folded{update.client_id(), update.examples(), adapter};

  lock.unlock();
  absl::Status status = fold->Validate(folded);
  absl::StatusOr<TensorStore::Pin> tensors = status.ok() ? journal_->tensors().Put(adapter) : status;
  lock.lock();

  if (absl::IsInvalidArgument(status)) FailUpload(update, status);
  WEFT_RETURN_IF_ERROR(tensors.status());
  // The round may have ended meanwhile, or another attempt of it begun.
  WEFT_RETURN_IF_ERROR(CheckTicket(ticket_id));
  if (running_->fold != fold) return absl::AbortedError("this attempt of the round was given up; wait for a plan");
  if (absl::Status written = journal_->AddUpdate(running_->stored.id, update, tensors->hash()); !written.ok()) {
    Logger("server.journal")
        ->error("event=update_not_written job={} round={} client={} reason=\"{}\"", update.job_id(), update.round(),
                update.client_id(), std::string(written.message()));
    return written;
  }
  absl::StatusOr<JobActions> actions = running_->machine->OnUpdate(update, Now());
  if (!actions.ok()) return actions.status();
  ++fold->folding;
  Accepted(update);
  Apply(*std::move(actions));

  lock.unlock();
  status = fold->Accumulate(folded);
  lock.lock();
  --fold->folding;
  if (!status.ok()) FailRunning(*fold, status);
  return status;
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
  reserved_bytes_ -= it->second.reserved_bytes;
  tickets_.erase(it);
  changed_.NotifyAll();
}

}  // namespace weft::server
