#include "server/testing/fake_client.h"

#include <algorithm>
#include <utility>

#include "adapters/codec.h"
#include "adapters/factors.h"
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
    labels_[message.job().job_id()] = message.job().task().labels_size();
    proto::ClientMessage reply;
    reply.mutable_job_reply()->set_job_id(message.job().job_id());
    reply.mutable_job_reply()->set_accepted(true);
    reply.mutable_job_reply()->set_layout_hash(options_.layout_hash.empty() ? message.job().layout_hash()
                                                                            : options_.layout_hash);
    reply.mutable_job_reply()->set_max_rank(options_.max_rank);
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
  WEFT_ASSIGN_OR_RETURN(EncodedUpdate update, Train(plan));
  const proto::UploadStart start = UploadOf(plan, update);
  return Upload(start, std::move(update));
}

absl::Status FakeClient::Fetch(const std::string& job_id, int64_t round) {
  proto::DownloadRequest request;
  request.set_job_id(job_id);
  request.set_round(round);
  request.set_client_id(options_.id);
  if (held_ != nullptr && held_job_ == job_id) request.set_have_round(held_round_);
  WEFT_ASSIGN_OR_RETURN(const StateDownload download, coordinator_->Download(request));
  auto state = std::make_unique<Adapter>(download.layout);
  for (const TensorSpec& tensor : download.layout->tensors()) {
    const bool sent = download.roles.empty() ||
                      std::find(download.roles.begin(), download.roles.end(), tensor.role) != download.roles.end();
    const Adapter& from = sent ? *download.state : *held_;
    const std::span<const float> values = from.tensor(*from.layout().Find(tensor.name));
    std::copy(values.begin(), values.end(), state->tensor(tensor).begin());
  }
  held_ = std::move(state);
  held_job_ = job_id;
  held_round_ = round;
  downloaded_ = download.roles;
  return absl::OkStatus();
}

absl::StatusOr<EncodedUpdate> FakeClient::Train(const proto::Plan& plan) {
  WEFT_RETURN_IF_ERROR(Fetch(plan.job_id(), plan.round() - 1));
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> sent,
                        SentLayout(held_->layout(), {plan.roles_sent().begin(), plan.roles_sent().end()}, plan.rank()));
  Adapter delta(std::move(sent));
  Philox random(plan.seed(), StreamId("fake_client"));
  const auto rate = static_cast<float>(plan.training().learning_rate());
  for (float& value : delta.values()) value = rate * (random.NextFloat() - 0.5f);
  return EncodedUpdate::Encode(delta, plan.encoding());
}

proto::UploadStart FakeClient::UploadOf(const proto::Plan& plan, const EncodedUpdate& update) const {
  proto::UploadStart start;
  proto::Update& facts = *start.mutable_update();
  facts.set_job_id(plan.job_id());
  facts.set_round(plan.round());
  facts.set_client_id(options_.id);
  facts.set_examples(options_.train_examples);
  facts.set_rank(plan.rank());
  facts.mutable_metrics()->set_loss(1);
  facts.mutable_metrics()->set_tokens(100);
  facts.mutable_metrics()->set_seconds(2);
  *start.mutable_header() = UpdateEncoder(update, "", 1).Header();
  return start;
}

absl::Status FakeClient::Upload(const proto::UploadStart& start, EncodedUpdate update) {
  WEFT_ASSIGN_OR_RETURN(const UploadTicket ticket, coordinator_->BeginUpload(start));
  const uint64_t bytes = update.bytes().size();
  for (const uint64_t received : {bytes / 2, bytes}) {
    if (absl::Status status = coordinator_->UploadProgress(ticket.id, received); !status.ok()) {
      coordinator_->AbandonUpload(ticket.id, status);
      return status;
    }
  }
  return coordinator_->FinishUpload(ticket.id, std::move(update));
}

void FakeClient::CountClasses(int labels, proto::Evaluation* evaluation) {
  if (labels == 0 || evaluation->examples() == 0) return;
  for (int c = 0; c < labels; ++c) evaluation->add_classes();
  evaluation->mutable_classes(0)->set_correct(evaluation->correct());
  evaluation->mutable_classes(0)->set_predicted(evaluation->examples());
  evaluation->mutable_classes(0)->set_actual(evaluation->correct());
  evaluation->mutable_classes(labels - 1)->set_actual(evaluation->examples() - evaluation->correct());
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
  CountClasses(labels_[plan.job_id()], &evaluation);
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
