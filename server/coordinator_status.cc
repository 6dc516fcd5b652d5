// CoordinatorImpl: what it shows of itself, time, and shutting down.

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/forms/form.h"
#include "common/logging.h"
#include "common/version.h"
#include "server/coordinator_impl.h"

namespace weft::server {

absl::StatusOr<proto::CoordinatorStatus> CoordinatorImpl::GetStatus(const std::string& job_id) {
  MutexLock lock(mutex_);
  if (!job_id.empty() && FindJob(job_id) == nullptr) {
    return absl::NotFoundError(absl::StrCat("no job ", job_id, "; `weft list` shows the jobs"));
  }
  proto::CoordinatorStatus status;
  status.set_version(kVersion);
  status.set_now_ms(absl::ToUnixMillis(Now()));
  status.set_started_ms(absl::ToUnixMillis(started_));
  status.set_insecure(options_.insecure);
  for (const std::unique_ptr<Job>& job : jobs_) {
    if (job_id.empty() || job->stored.id == job_id) *status.add_jobs() = StatusOf(*job);
  }
  for (const auto& [id, client] : clients_) *status.add_clients() = StatusOf(id, client);
  return status;
}

proto::PrivacyStatus CoordinatorImpl::PrivacyOf(const Job& job) {
  const aggregators::PrivacySpent& one_round = job.checked.privacy->one_round;
  const std::vector<CommittedRound>& rounds = job.machine->history().rounds;
  proto::PrivacyStatus privacy;
  privacy.set_epsilon(rounds.empty() ? 0 : rounds.back().status.epsilon());
  privacy.set_epsilon_budget(one_round.epsilon_budget);
  privacy.set_delta(one_round.delta);
  privacy.set_noise_multiplier(one_round.noise_multiplier);
  privacy.set_sampling_rate(one_round.sampling_rate);
  // What a round shows that depends on the clients' data or presence, and is as it was counted.
  for (const char* figure : {"updates", "examples", "train_loss", "accuracy", "loss", "evaluated_examples"}) {
    privacy.add_unprotected(figure);
  }
  if (job.stored.config.task().type() == "causal_lm") {
    for (const char* figure : {"perplexity", "evaluated_tokens"}) privacy.add_unprotected(figure);
  } else if (IsClassification(job.stored.config.task())) {
    privacy.add_unprotected("f1");
  }
  return privacy;
}

proto::JobStatus CoordinatorImpl::StatusOf(const Job& job) const {
  proto::JobStatus status;
  job.machine->FillStatus(Now(), &status);
  status.set_job_id(job.stored.id);
  status.set_name(job.stored.config.name());
  *status.mutable_config() = job.stored.config;
  status.mutable_config()->mutable_base()->clear_config_json();
  status.set_submitted_ms(absl::ToUnixMillis(job.stored.submitted));
  if (const auto& started = job.machine->history().started; started.has_value()) {
    status.set_started_ms(absl::ToUnixMillis(*started));
  }
  if (job.stored.ended.has_value()) status.set_ended_ms(absl::ToUnixMillis(*job.stored.ended));
  if (job.checked.layout != nullptr) {
    status.set_adapter_parameters(static_cast<uint64_t>(job.checked.layout->num_elements()));
    status.set_layout_hash(job.checked.layout->hash());
  }
  if (job.checked.privacy.has_value()) *status.mutable_privacy() = PrivacyOf(job);
  const bool queued = job.machine->phase() != JobMachine::Phase::kEnded && &job != running_;
  if (queued && running_ != nullptr) status.set_message(absl::StrCat("waits for job ", running_->stored.id, " to end"));
  return status;
}

proto::ClientStatus CoordinatorImpl::StatusOf(const std::string& id, const Client& client) const {
  proto::ClientStatus status;
  status.set_client_id(id);
  status.set_connected(client.channel != nullptr);
  status.set_device(client.hello.device());
  status.set_train_examples(client.hello.train_examples());
  status.set_test_examples(client.hello.test_examples());
  status.set_activity(client.activity);
  status.set_steps_done(client.steps_done);
  status.set_steps_total(client.steps_total);
  status.set_tokens_per_second(client.tokens_per_second);
  status.set_bytes_up(client.bytes_up);
  status.set_bytes_down(client.bytes_down);
  status.set_last_seen_ms(absl::ToUnixMillis(client.last_seen));
  status.set_version(client.hello.version());
  return status;
}

uint64_t CoordinatorImpl::status_version() {
  MutexLock lock(mutex_);
  return version_;
}

uint64_t CoordinatorImpl::WaitForChange(uint64_t seen, absl::Duration timeout) {
  MutexLock lock(mutex_);
  changed_.WaitFor(lock, timeout, [&] { return version_ > seen || shut_down_; });
  return version_;
}

void CoordinatorImpl::Changed() {
  ++version_;
  changed_.NotifyAll();
}

void CoordinatorImpl::Tick() {
  MutexLock lock(mutex_);
  if (shut_down_ || running_ == nullptr) return;
  const std::string message = running_->machine->message();
  // An upload that waits for memory is the coordinator's doing, not the client's.
  ++ticks_;
  const std::multiset<std::pair<std::string, int64_t>> waiting = waiting_uploads_;
  for (const auto& [client, round] : waiting) {
    if (running_ != nullptr) Apply(running_->machine->OnProgress(client, {round, "waiting", ticks_}, Now()));
  }
  if (running_ == nullptr) return;
  JobActions actions = running_->machine->OnTick(Now());
  const bool commit_due = running_->fold != nullptr && running_->fold->closed;
  if (actions.empty() && !commit_due && waiting.empty() && message == running_->machine->message()) return;
  Apply(std::move(actions));
  Settle(lock);
}

void CoordinatorImpl::RunTicks() {
  while (true) {
    {
      MutexLock lock(mutex_);
      if (ended_.WaitFor(lock, options_.tick_interval, [this] { return shut_down_; })) return;
    }
    Tick();
  }
}

void CoordinatorImpl::Shutdown() {
  {
    MutexLock lock(mutex_);
    if (!shut_down_) {
      shut_down_ = true;
      for (auto& [id, client] : clients_) {
        if (client.channel != nullptr) client.channel->Close(absl::UnavailableError("coordinator is shutting down"));
        client.channel = nullptr;
      }
      Changed();
      ended_.NotifyAll();
    }
  }
  if (ticker_.joinable()) ticker_.join();
}

}  // namespace weft::server
