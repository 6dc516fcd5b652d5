#ifndef WEFT_SERVER_TESTING_COORDINATOR_FIXTURE_H_
#define WEFT_SERVER_TESTING_COORDINATOR_FIXTURE_H_

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/simulated_clock.h"
#include "server/coordinator.h"
#include "server/testing/fake_client.h"
#include "server/testing/small_job.h"

namespace weft::server {

// A coordinator on a folder of its own with fake clients and a clock cranked by hand; no thread of its own.
class CoordinatorFixture : public testing::Test {
 protected:
  CoordinatorFixture();

  // Opens (again) on state_dir_; clients of before are gone.
  void Open();
  // As if the process had been killed now: opens a coordinator on a copy of the state folder.
  void KillAndReopen();

  // Makes a client and lets it join.
  FakeClient& Add(const std::string& id) { return AddWith(FakeClient::Options{.id = id}); }
  FakeClient& AddWith(FakeClient::Options options);
  FakeClient& Client(const std::string& id) { return *clients_.at(id); }
  std::string Submit(const proto::JobConfig& config, std::optional<Adapter> warm_start = std::nullopt);
  // Lets these clients (all when empty) carry out what was pushed to them until nobody has anything to do.
  void Work(const std::vector<std::string>& ids = {});
  // One message of one of them; false when there was none.
  bool WorkOnce(const std::vector<std::string>& ids = {});
  void After(absl::Duration time);
  // All clients answer their offers; then what was pushed to this one is taken from it. Fails the test when there is
  // none.
  proto::Plan TakePlan(const std::string& id);
  proto::EvaluationPlan TakeEvaluation(const std::string& id);

  proto::JobStatus JobOf(const std::string& job_id);
  proto::ClientStatus ClientOf(const std::string& id);
  std::string HashOf(const std::string& job_id, const std::string& which);

  void Collect(const std::string& id);
  void AnswerOffers();

  const std::string base_dir_;
  std::string state_dir_;
  int copies_ = 0;
  proto::CoordinatorConfig config_;
  SimulatedClock clock_;
  std::unique_ptr<Coordinator> coordinator_;
  std::map<std::string, std::unique_ptr<FakeClient>> clients_;
  std::map<std::string, std::vector<proto::ServerMessage>> inbox_;  // taken from the clients, not handled
};

}  // namespace weft::server

#endif  // WEFT_SERVER_TESTING_COORDINATOR_FIXTURE_H_
