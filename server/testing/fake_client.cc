#include "server/testing/fake_client.h"

#include <algorithm>
#include <utility>

#include "common/hash.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "proto/schema.h"

namespace weft::server {

class FakeClient::Channel : public ClientChannel {
 public:
  void Send(const proto::ServerMessage& message) override {
    MutexLock lock(mutex_);
    queue_.push_back(message);
    const auto* field = message.GetDescriptor()->FindFieldByNumber(message.kind_case());
    kinds_.push_back(field->name());
  }
  void Close(const absl::Status& status) override {
    MutexLock lock(mutex_);
    closed_ = status;
  }

  std::vector<proto::ServerMessage> Take() {
    MutexLock lock(mutex_);
    return std::exchange(queue_, {});
  }
  std::vector<std::string> kinds() {
    MutexLock lock(mutex_);
    return kinds_;
  }
  absl::Status closed() {
    MutexLock lock(mutex_);
    return closed_;
  }

 private:
  Mutex mutex_;
  std::vector<proto::ServerMessage> queue_;
  std::vector<std::string> kinds_;
  absl::Status closed_;
};

FakeClient::FakeClient(Coordinator* coordinator, Options options)
    : coordinator_(coordinator), options_(std::move(options)), channel_(std::make_shared<Channel>()) {}

FakeClient::~FakeClient() = default;

absl::Status FakeClient::Join() {
  channel_ = std::make_shared<Channel>();
  proto::Hello hello;
  hello.set_protocol_version(proto::kProtocolVersion);
  hello.set_client_id(options_.id);
  hello.set_instance(options_.instance);
  hello.set_base_hash(options_.base_hash);
  hello.set_train_examples(options_.train_examples);
  hello.set_test_examples(options_.test_examples);
  hello.set_device("fake");
  return coordinator_->Join(hello, channel_, [this](const proto::Welcome& welcome) { welcome_ = welcome; });
}

void FakeClient::Leave() { coordinator_->Leave(options_.id, options_.instance); }

int FakeClient::Work() {
  int handled = 0;
  for (std::vector<proto::ServerMessage> messages = Take(); !messages.empty(); messages = Take()) {
    for (const proto::ServerMessage& message : messages) {
      ++handled;
      if (absl::Status status = Handle(message); !status.ok()) last_error_ = status;
    }
  }
  return handled;
}

std::vector<proto::ServerMessage> FakeClient::Take() { return channel_->Take(); }

absl::Status FakeClient::Handle(const proto::ServerMessage& message) {
  if (message.has_job()) {
    proto::ClientMessage reply;
    reply.mutable_job_reply()->set_job_id(message.job().job_id());
    reply.mutable_job_reply()->set_accepted(true);
    reply.mutable_job_reply()->set_layout_hash(options_.layout_hash.empty() ? message.job().layout_hash()
                                                                            : options_.layout_hash);
    return Say(reply);
  }
  if (message.has_train()) return Carry(message.train());
  if (message.has_evaluate()) return Evaluate(message.evaluate());
  if (message.has_cancel()) last_reason_ = message.cancel().reason();
  if (message.has_job_ended()) last_reason_ = message.job_ended().reason();
  return absl::OkStatus();
}

absl::Status FakeClient::Say(const proto::ClientMessage& message) {
  return coordinator_->OnMessage(options_.id, options_.instance, message);
}

absl::Status FakeClient::Carry(const proto::Plan& plan) {
  WEFT_ASSIGN_OR_RETURN(Adapter adapter, Train(plan));
  const proto::UploadStart start = UploadOf(plan, adapter);
  return Upload(start, std::move(adapter));
}

absl::StatusOr<Adapter> FakeClient::Train(const proto::Plan& plan) {
  proto::DownloadRequest request;
  request.set_job_id(plan.job_id());
  request.set_round(plan.round() - 1);
  request.set_client_id(options_.id);
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Adapter> start, coordinator_->Download(request));
  Adapter adapter = start->Clone();
  Philox random(plan.seed(), StreamId("fake_client"));
  const auto rate = static_cast<float>(plan.training().learning_rate());
  for (float& value : adapter.values()) value += rate * (random.NextFloat() - 0.5f);
  return adapter;
}

proto::UploadStart FakeClient::UploadOf(const proto::Plan& plan, const Adapter& adapter) const {
  proto::UploadStart start;
  proto::Update& update = *start.mutable_update();
  update.set_job_id(plan.job_id());
  update.set_round(plan.round());
  update.set_client_id(options_.id);
  update.set_examples(options_.train_examples);
  update.mutable_metrics()->set_loss(1);
  update.mutable_metrics()->set_tokens(100);
  update.mutable_metrics()->set_seconds(2);
  proto::TensorHeader& header = *start.mutable_header();
  header.set_layout_hash(adapter.layout().hash());
  header.set_encoding("f32");
  header.set_total_bytes(adapter.bytes().size());
  header.set_sha256(Sha256Of(adapter.bytes().data(), adapter.bytes().size()));
  return start;
}

absl::Status FakeClient::Upload(const proto::UploadStart& start, Adapter adapter) {
  WEFT_ASSIGN_OR_RETURN(const UploadTicket ticket, coordinator_->BeginUpload(start));
  const uint64_t bytes = adapter.bytes().size();
  for (const uint64_t received : {bytes / 2, bytes}) {
    if (absl::Status status = coordinator_->UploadProgress(ticket.id, received); !status.ok()) {
      coordinator_->AbandonUpload(ticket.id, status);
      return status;
    }
  }
  return coordinator_->FinishUpload(ticket.id, std::move(adapter));
}

absl::Status FakeClient::Evaluate(const proto::EvaluationPlan& plan) {
  proto::ClientMessage message;
  proto::Evaluation& evaluation = *message.mutable_evaluation();
  evaluation.set_job_id(plan.job_id());
  evaluation.set_round(plan.round());
  evaluation.set_client_id(options_.id);
  evaluation.set_examples(options_.test_examples);
  if (plan.rows() > 0) evaluation.set_examples(std::min<uint64_t>(options_.test_examples, plan.rows()));
  evaluation.set_correct(std::min(options_.correct, evaluation.examples()));
  evaluation.set_loss_sum(0.5 * static_cast<double>(evaluation.examples()));
  return Say(message);
}

absl::Status FakeClient::closed() { return channel_->closed(); }

std::vector<std::string> FakeClient::received() { return channel_->kinds(); }

void WorkAll(const std::vector<FakeClient*>& clients) {
  for (int handled = 1; handled > 0;) {
    handled = 0;
    for (FakeClient* client : clients) handled += client->Work();
  }
}

}  // namespace weft::server
