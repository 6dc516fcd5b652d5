#include "server/testing/coordinator_fixture.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"

namespace weft::server {
namespace {

std::string FolderOfThisTest() {
  const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
  return absl::StrCat(testing::TempDir(), "/", test->test_suite_name(), ".", test->name());
}

}  // namespace

CoordinatorFixture::CoordinatorFixture()
    : base_dir_(FolderOfThisTest()), state_dir_(base_dir_ + "/0"), config_(SmallCoordinator(state_dir_)) {
  std::filesystem::remove_all(base_dir_);
  Open();
}

void CoordinatorFixture::Open() {
  clients_.clear();
  inbox_.clear();
  coordinator_.reset();
  config_.set_state_dir(state_dir_);
  Coordinator::Options options;
  options.config = config_;
  options.clock = &clock_;
  options.tick_interval = absl::ZeroDuration();
  auto coordinator = Coordinator::Open(options);
  ASSERT_TRUE(coordinator.ok()) << coordinator.status();
  coordinator_ = *std::move(coordinator);
}

void CoordinatorFixture::KillAndReopen() {
  const std::string copy = absl::StrCat(base_dir_, "/", ++copies_);
  std::filesystem::copy(state_dir_, copy, std::filesystem::copy_options::recursive);
  state_dir_ = copy;
  Open();
}

FakeClient& CoordinatorFixture::AddWith(FakeClient::Options options) {
  const std::string id = options.id;
  inbox_[id].clear();
  clients_[id] = std::make_unique<FakeClient>(coordinator_.get(), std::move(options));
  EXPECT_EQ(clients_[id]->Join(), absl::OkStatus());
  return *clients_[id];
}

std::string CoordinatorFixture::Submit(const proto::JobConfig& config, std::optional<Adapter> warm_start) {
  auto id = coordinator_->Submit(config, std::move(warm_start));
  EXPECT_TRUE(id.ok()) << id.status();
  return id.value_or("");
}

void CoordinatorFixture::Work(const std::vector<std::string>& ids) {
  while (WorkOnce(ids)) {
  }
}

bool CoordinatorFixture::WorkOnce(const std::vector<std::string>& ids) {
  for (auto& [id, client] : clients_) {
    if (!ids.empty() && std::find(ids.begin(), ids.end(), id) == ids.end()) continue;
    Collect(id);
    if (inbox_[id].empty()) continue;
    const proto::ServerMessage message = inbox_[id].front();
    inbox_[id].erase(inbox_[id].begin());
    client->Handle(message).IgnoreError();
    return true;
  }
  return false;
}

void CoordinatorFixture::After(absl::Duration time) {
  clock_.Advance(time);
  coordinator_->Tick();
}

proto::Plan CoordinatorFixture::TakePlan(const std::string& id) {
  AnswerOffers();
  std::vector<proto::ServerMessage>& inbox = inbox_[id];
  const auto it = std::find_if(inbox.begin(), inbox.end(), [](const auto& message) { return message.has_train(); });
  if (it == inbox.end()) {
    ADD_FAILURE() << "no plan for " << id;
    return {};
  }
  const proto::Plan plan = it->train();
  inbox.erase(it);
  return plan;
}

proto::EvaluationPlan CoordinatorFixture::TakeEvaluation(const std::string& id) {
  AnswerOffers();
  std::vector<proto::ServerMessage>& inbox = inbox_[id];
  const auto it = std::find_if(inbox.begin(), inbox.end(), [](const auto& message) { return message.has_evaluate(); });
  if (it == inbox.end()) {
    ADD_FAILURE() << "no evaluation for " << id;
    return {};
  }
  const proto::EvaluationPlan plan = it->evaluate();
  inbox.erase(it);
  return plan;
}

void CoordinatorFixture::Collect(const std::string& id) {
  for (proto::ServerMessage& message : clients_.at(id)->Take()) inbox_[id].push_back(std::move(message));
}

void CoordinatorFixture::AnswerOffers() {
  for (auto& [id, client] : clients_) {
    Collect(id);
    std::vector<proto::ServerMessage> rest;
    for (const proto::ServerMessage& message : std::exchange(inbox_[id], {})) {
      if (message.has_job()) {
        EXPECT_EQ(client->Handle(message), absl::OkStatus());
      } else {
        rest.push_back(message);
      }
    }
    inbox_[id] = std::move(rest);
  }
  for (auto& [id, client] : clients_) Collect(id);
}

proto::JobStatus CoordinatorFixture::JobOf(const std::string& job_id) {
  auto status = coordinator_->GetStatus(job_id);
  EXPECT_TRUE(status.ok()) << status.status();
  return status.ok() ? status->jobs(0) : proto::JobStatus();
}

proto::ClientStatus CoordinatorFixture::ClientOf(const std::string& id) {
  const auto status = coordinator_->GetStatus("");
  for (const proto::ClientStatus& client : status->clients()) {
    if (client.client_id() == id) return client;
  }
  ADD_FAILURE() << "no client " << id;
  return {};
}

std::string CoordinatorFixture::HashOf(const std::string& job_id, const std::string& which) {
  auto exported = coordinator_->Export(job_id, which);
  EXPECT_TRUE(exported.ok()) << exported.status();
  return exported.ok() ? exported->adapter->ContentHash() : "";
}

}  // namespace weft::server
