// CoordinatorImpl: clients coming, speaking and going.

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/version.h"
#include "proto/schema.h"
#include "server/coordinator_impl.h"
#include "server/evaluation/evaluation.h"

namespace weft::server {
namespace {

absl::Status CheckHello(const proto::Hello& hello) {
  if (hello.protocol_version() != proto::kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("client speaks protocol version ", hello.protocol_version(),
                                                      ", this coordinator ", proto::kProtocolVersion,
                                                      "; run the same version of Weft on both"));
  }
  WEFT_RETURN_IF_ERROR(CheckName(hello.client_id(), "client_id"));
  return CheckName(hello.instance(), "instance");
}

absl::Status CheckSender(const proto::Evaluation& evaluation, const std::string& client) {
  if (evaluation.client_id() == client) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("client ", client, " sent an evaluation of client ",
                                                 evaluation.client_id(), "; send only your own"));
}

// Why a client that would take the job can't; "" when it can.
std::string Misfit(const CheckedJob& job, const proto::JobReply& reply) {
  if (reply.layout_hash() != job.layout->hash()) {
    return absl::StrCat("laid the adapter out as ", reply.layout_hash(), ", job needs ", job.layout->hash(),
                        "; run the same version of Weft on coordinator and client");
  }
  if (reply.max_rank() < 0) return absl::StrCat("found max_rank ", reply.max_rank(), ", expected 0 (all) or more");
  const int64_t rank = RankOf(*job.layout);
  if (reply.max_rank() == 0 || reply.max_rank() >= rank || job.rule->facts().takes_mixed_ranks) return "";
  return absl::StrCat("trains at most ", reply.max_rank(), " components of a LoRA factor (max_rank), rule ",
                      job.config.aggregator().name(), " needs all ", rank,
                      "; submit a job of that rank, or one whose rule takes mixed ranks");
}

}  // namespace

absl::Status CoordinatorImpl::Join(const proto::Hello& hello, std::shared_ptr<ClientChannel> channel,
                                   const std::function<void(const proto::Welcome&)>& send_welcome) {
  WEFT_RETURN_IF_ERROR(CheckHello(hello));
  MutexLock lock(mutex_);
  if (shut_down_) return absl::UnavailableError("coordinator is shutting down");
  const std::string& id = hello.client_id();
  const auto known = clients_.find(id);
  if (known != clients_.end() && known->second.channel != nullptr) {
    if (known->second.hello.instance() != hello.instance()) {
      return absl::AlreadyExistsError(absl::StrCat(
          "another client with id ", id, " is connected; give this one its own client_id, or stop the other"));
    }
    known->second.channel->Close(absl::AbortedError("replaced by a newer stream of the same client"));
    if (running_ != nullptr) Apply(running_->machine->OnLost(id, Now()));
  }
  Client& client = clients_[id];
  client.hello = hello;
  client.channel = std::move(channel);
  client.activity = "idle";
  client.refused.clear();
  client.last_seen = Now();
  proto::Welcome welcome;
  welcome.set_protocol_version(proto::kProtocolVersion);
  welcome.set_version(kVersion);
  welcome.set_chunk_bytes(static_cast<uint64_t>(options_.config.chunk_bytes()));
  welcome.set_max_message_bytes(static_cast<uint64_t>(options_.config.max_message_bytes()));
  send_welcome(welcome);
  Logger("server.client")
      ->info("event=join client={} instance={} train_examples={} test_examples={} device=\"{}\" version={}", id,
             hello.instance(), hello.train_examples(), hello.test_examples(), hello.device(), hello.version());
  if (running_ != nullptr) Offer(id, client);
  Settle(lock);
  return absl::OkStatus();
}

void CoordinatorImpl::Leave(const std::string& client_id, const std::string& instance) {
  MutexLock lock(mutex_);
  const auto it = clients_.find(client_id);
  if (shut_down_ || it == clients_.end() || it->second.hello.instance() != instance) return;
  if (it->second.channel == nullptr) return;
  it->second.channel = nullptr;
  it->second.activity = "idle";
  it->second.refused.clear();
  Logger("server.client")->info("event=leave client={} instance={}", client_id, instance);
  if (running_ != nullptr) Apply(running_->machine->OnLost(client_id, Now()));
  Settle(lock);
}

absl::Status CoordinatorImpl::OnMessage(const std::string& client_id, const std::string& instance,
                                        const proto::ClientMessage& message) {
  MutexLock lock(mutex_);
  if (shut_down_) return absl::UnavailableError("coordinator is shutting down");
  const auto it = clients_.find(client_id);
  if (it == clients_.end() || it->second.channel == nullptr || it->second.hello.instance() != instance) {
    return absl::FailedPreconditionError(absl::StrCat("client ", client_id, " is not connected; say hello first"));
  }
  Client& client = it->second;
  client.last_seen = Now();
  absl::Status status;
  switch (message.kind_case()) {
    case proto::ClientMessage::kJobReply:
      OnJobReply(client_id, client, message.job_reply());
      break;
    case proto::ClientMessage::kProgress:
      OnProgress(client_id, client, message.progress());
      break;
    case proto::ClientMessage::kEvaluation:
      status = OnEvaluation(client_id, client, message.evaluation());
      break;
    case proto::ClientMessage::kFailure:
      OnFailure(client_id, client, message.failure());
      break;
    case proto::ClientMessage::kGoodbye:
      OnGoodbye(client_id, client, message.goodbye());
      break;
    default:
      status = absl::InvalidArgumentError(
          "found a hello or an empty message, expected job_reply, progress, evaluation, failure or goodbye");
  }
  Settle(lock);
  return status;
}

void CoordinatorImpl::Offer(const std::string& id, Client& client) {
  const proto::JobConfig& config = running_->stored.config;
  proto::ServerMessage message;
  proto::JobOffer& offer = *message.mutable_job();
  offer.set_job_id(running_->stored.id);
  offer.set_name(config.name());
  offer.set_base_hash(config.base().hash());
  offer.set_layout_hash(running_->checked.layout->hash());
  *offer.mutable_task() = config.task();
  *offer.mutable_adapter() = config.adapter();
  // Also to a client that can't take it: it finds the same reason and logs it where its owner looks.
  SendTo(id, message);
  if (client.hello.base_hash() != config.base().hash()) {
    Refuse(id, client, absl::StrCat("holds base ", client.hello.base_hash(), ", job needs ", config.base().hash()));
  }
}

void CoordinatorImpl::Refuse(const std::string& id, Client& client, const std::string& reason) {
  client.refused = reason;
  client.activity = "refused: " + reason;
  Logger("server.client")->warn("event=refused job={} client={} reason=\"{}\"", running_->stored.id, id, reason);
}

void CoordinatorImpl::OnJobReply(const std::string& id, Client& client, const proto::JobReply& reply) {
  if (running_ == nullptr || reply.job_id() != running_->stored.id || !client.refused.empty()) return;
  if (!reply.accepted()) {
    Refuse(id, client, reply.reason());
    return Apply(running_->machine->OnGone(id, Now()));
  }
  if (const std::string reason = Misfit(running_->checked, reply); !reason.empty()) {
    Refuse(id, client, reason);
    proto::ServerMessage message;
    message.mutable_job_ended()->set_job_id(reply.job_id());
    message.mutable_job_ended()->set_reason("refused: " + reason);
    return SendTo(id, message);
  }
  client.max_rank = reply.max_rank();
  Candidates::Rows rows{client.hello.train_examples(), client.hello.test_examples()};
  // Hello counts the rows of split "test" only; whether a client has another one shows when it is asked.
  if (running_->stored.config.evaluation().split() != "test") rows.test = 1;
  Apply(running_->machine->OnReady(id, rows, Now()));
}

void CoordinatorImpl::OnProgress(const std::string& id, Client& client, const proto::Progress& progress) {
  client.activity = progress.activity();
  if (progress.activity() == "training" || progress.activity() == "evaluating") {
    client.steps_done = progress.done();
    client.steps_total = progress.total();
  }
  if (running_ == nullptr || progress.job_id() != running_->stored.id) return;
  Apply(running_->machine->OnProgress(id, {progress.round(), progress.activity(), progress.done()}, Now()));
}

absl::Status CoordinatorImpl::OnEvaluation(const std::string& id, Client& client, const proto::Evaluation& evaluation) {
  client.activity = "idle";
  if (running_ == nullptr || evaluation.job_id() != running_->stored.id) return absl::OkStatus();
  JobMachine& machine = *running_->machine;
  absl::Status status = CheckSender(evaluation, id);
  status.Update(CheckEvaluation(evaluation, running_->checked.config.task(), machine.planned_rows()));
  if (!status.ok()) {
    Logger("server.client")
        ->warn("event=bad_evaluation job={} round={} client={} reason=\"{}\"", evaluation.job_id(), evaluation.round(),
               id, std::string(status.message()));
    Apply(machine.OnFailure(id, evaluation.round(), std::string(status.message()), Now()));
    return status;
  }
  Apply(machine.OnEvaluation(evaluation, Now()));
  return absl::OkStatus();
}

void CoordinatorImpl::OnFailure(const std::string& id, Client& client, const proto::Failure& failure) {
  client.activity = "idle";
  Logger("server.client")
      ->warn("event=failure job={} round={} client={} reason=\"{}\"", failure.job_id(), failure.round(), id,
             failure.reason());
  if (running_ == nullptr || failure.job_id() != running_->stored.id) return;
  Apply(running_->machine->OnFailure(id, failure.round(), failure.reason(), Now()));
}

void CoordinatorImpl::OnGoodbye(const std::string& id, Client& client, const proto::Goodbye& goodbye) {
  client.activity = "idle";
  Logger("server.client")->info("event=goodbye client={} reason=\"{}\"", id, goodbye.reason());
  if (running_ != nullptr) Apply(running_->machine->OnGone(id, Now()));
}

void CoordinatorImpl::SendTo(const std::string& id, const proto::ServerMessage& message) {
  const auto it = clients_.find(id);
  if (it != clients_.end() && it->second.channel != nullptr) it->second.channel->Send(message);
}

}  // namespace weft::server
