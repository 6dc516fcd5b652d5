#ifndef WEFT_CLIENT_TESTING_DAEMON_FIXTURE_H_
#define WEFT_CLIENT_TESTING_DAEMON_FIXTURE_H_

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "client/daemon.h"
#include "client/testing/fake_coordinator.h"
#include "client/testing/fake_trainer.h"
#include "client/testing/test_folders.h"
#include "common/simulated_clock.h"

namespace weft {

// A daemon on a thread between a fake coordinator and a fake trainer, with a base, data and a job that fit together.
// Changes to trainer_options_, data_options_ and max_rank_ count before Start.
class DaemonFixture : public testing::Test {
 protected:
  ~DaemonFixture() override {
    held_ = false;
    if (daemon_ != nullptr) daemon_->Stop("test ends");
    if (thread_.joinable()) thread_.join();
  }

  // Makes folders, trainer and daemon; the daemon does not run yet.
  void Prepare() {
    const std::string base = MakeTestFolder("base");
    WriteTestBase(base);
    const std::string data = MakeTestFolder("data");
    WriteTestData(data, data_options_);
    data_.emplace(*DataFolder::Open(data));
    trainer_options_.base = base;
    trainer_options_.hold = [this](const std::string&, int64_t round) { return Hold(round); };
    trainer_ = *FakeTrainer::Create(trainer_options_);
    daemon_ = std::make_unique<Daemon>(Daemon::Options{.client_id = "a",
                                                       .version = "test",
                                                       .seed = 7,
                                                       .reconnect_min = absl::Milliseconds(1),
                                                       .reconnect_max = absl::Milliseconds(4),
                                                       .make_link = [this] { return MakeLink(); },
                                                       .trainer = trainer_.get(),
                                                       .data = &*data_,
                                                       .clock = &clock_,
                                                       .states = states_.get(),
                                                       .max_rank = max_rank_});
  }

  void Start() {
    Prepare();
    thread_ = std::thread([this] { result_ = daemon_->Run(); });
  }

  // Waits until the daemon has ended by itself or by Stop.
  absl::Status Join() {
    thread_.join();
    return result_;
  }

  // Connects and has the job accepted.
  void StartWithJob() {
    Start();
    coordinator_.WaitForConnect(1);
    SetAdapters();
    OfferJob();
    ASSERT_TRUE(coordinator_.WaitFor(proto::ClientMessage::kJobReply).job_reply().accepted());
  }

  proto::JobOffer Offer() {
    proto::JobOffer offer;
    offer.set_job_id("job");
    offer.set_name("test");
    offer.set_base_hash(trainer_->base_hash());
    offer.mutable_task()->set_type("sequence_classification");
    for (const char* label : {"red", "green", "blue"}) offer.mutable_task()->add_labels(label);
    offer.mutable_adapter()->set_form("lora");
    offer.mutable_adapter()->set_head(true);
    auto& config = *offer.mutable_adapter()->mutable_config()->mutable_fields();
    config["rank"].set_number_value(2);
    config["target_modules"].mutable_list_value()->add_values()->set_string_value("query");
    const auto layout = trainer_->PrepareJob(offer);
    EXPECT_TRUE(layout.ok()) << layout.status();
    layout_ = *layout;
    offer.set_layout_hash(layout_->hash());
    return offer;
  }

  void OfferJob() {
    proto::ServerMessage message;
    *message.mutable_job() = Offer();
    coordinator_.Push(message);
  }

  // The answer to an offer.
  proto::JobReply ReplyTo(const proto::JobOffer& offer) {
    proto::ServerMessage message;
    *message.mutable_job() = offer;
    coordinator_.Push(message);
    return coordinator_.WaitFor(proto::ClientMessage::kJobReply).job_reply();
  }

  // Adapters of rounds 0 to 3 that differ.
  void SetAdapters() {
    Offer();
    for (int64_t round = 0; round <= 3; ++round) coordinator_.SetAdapter(round, StartOf(round));
  }
  Adapter StartOf(int64_t round) const {
    Adapter adapter(layout_);
    for (float& value : adapter.values()) value = 0.1f * static_cast<float>(round);
    return adapter;
  }

  static proto::ServerMessage PlanOf(int64_t round, uint64_t seed = 5) {
    proto::ServerMessage message;
    proto::Plan& plan = *message.mutable_train();
    plan.set_job_id("job");
    plan.set_round(round);
    for (const char* role : {"lora_a", "lora_b", "head"}) plan.add_roles_sent(role);
    plan.mutable_training()->set_steps(4);
    plan.set_seed(seed);
    plan.set_progress_interval_ms(1000);
    return message;
  }

  static proto::ServerMessage EvaluationOf(int64_t round, const std::string& split = "test") {
    proto::ServerMessage message;
    proto::EvaluationPlan& plan = *message.mutable_evaluate();
    plan.set_job_id("job");
    plan.set_round(round);
    plan.set_split(split);
    plan.set_progress_interval_ms(1000);
    return message;
  }

  static proto::ServerMessage CancelOf(int64_t round) {
    proto::ServerMessage message;
    message.mutable_cancel()->set_job_id("job");
    message.mutable_cancel()->set_round(round);
    return message;
  }

  static proto::ServerMessage JobEndedMessage() {
    proto::ServerMessage message;
    message.mutable_job_ended()->set_job_id("job");
    return message;
  }

  std::string WaitForFailure() { return coordinator_.WaitFor(proto::ClientMessage::kFailure).failure().reason(); }

  // Training stands still until Release; WaitUntilHeld returns once that of `round` does.
  void HoldTraining() {
    MutexLock lock(mutex_);
    held_round_ = 0;
    held_ = true;
  }
  void WaitUntilHeld(int64_t round) {
    MutexLock lock(mutex_);
    changed_.Wait(lock, [&] { return held_round_ == round; });
  }
  void Release() { held_ = false; }

  FakeCoordinator coordinator_;
  FakeTrainer::Options trainer_options_;
  TestData data_options_;
  absl::Status make_link_status_;
  SimulatedClock clock_;
  int64_t max_rank_ = 0;
  const std::unique_ptr<StateStore> states_ = *StateStore::Open("");
  std::optional<DataFolder> data_;
  std::unique_ptr<FakeTrainer> trainer_;
  std::unique_ptr<Daemon> daemon_;
  std::shared_ptr<const Layout> layout_;

 private:
  absl::StatusOr<std::unique_ptr<Link>> MakeLink() {
    if (!make_link_status_.ok()) return make_link_status_;
    return coordinator_.MakeLink();
  }
  bool Hold(int64_t round) {
    if (!held_) return false;
    MutexLock lock(mutex_);
    held_round_ = round;
    changed_.NotifyAll();
    return true;
  }

  Mutex mutex_;
  CondVar changed_;
  std::atomic<bool> held_ = false;
  int64_t held_round_ = 0;
  std::thread thread_;
  absl::Status result_;
};

}  // namespace weft

#endif  // WEFT_CLIENT_TESTING_DAEMON_FIXTURE_H_
