#ifndef WEFT_SERVER_TESTING_FAKE_CLIENT_H_
#define WEFT_SERVER_TESTING_FAKE_CLIENT_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "server/coordinator.h"

namespace weft::server {

// A client without a process, transport or model: it speaks the whole protocol with a coordinator in the same process.
// Its training moves every value sent by a number drawn from the plan's seed, so that equal plans give equal bits. It
// downloads only what it lacks, and goes on from there. It takes every row for the first label. Work from one thread;
// the coordinator may push from any.
class FakeClient {
 public:
  struct Options {
    std::string id;
    std::string instance = "i1";
    std::string base_hash = std::string(64, 'b');
    uint64_t train_examples = 10;
    uint64_t test_examples = 20;
    uint64_t correct = 5;          // of each evaluation
    std::string layout_hash = "";  // replied in place of its own unless empty
    int64_t max_rank = 0;          // replied
  };
  FakeClient(Coordinator* coordinator, Options options);
  ~FakeClient();

  absl::Status Join();
  void Leave();
  // Carries out everything pushed so far and what comes of it. Returns the number of messages handled.
  int Work();

  // One by one, for tests that deviate.
  std::vector<proto::ServerMessage> Take();
  absl::Status Handle(const proto::ServerMessage& message);
  absl::Status Say(const proto::ClientMessage& message);
  // Trains and uploads.
  absl::Status Carry(const proto::Plan& plan);
  absl::StatusOr<EncodedUpdate> Train(const proto::Plan& plan);
  proto::UploadStart UploadOf(const proto::Plan& plan, const EncodedUpdate& update) const;
  absl::Status Upload(const proto::UploadStart& start, EncodedUpdate update);
  absl::Status Evaluate(const proto::EvaluationPlan& plan);
  // Adds counts of classes for a job of so many labels.
  static void CountClasses(int labels, proto::Evaluation* evaluation);

  Options& options() { return options_; }
  const proto::Welcome& welcome() const { return welcome_; }
  // Of the last stream; OK while it is open.
  absl::Status closed();
  // Kinds of all messages pushed so far: "job", "train", ...
  std::vector<std::string> received();
  // Outcome of the last Handle that failed.
  const absl::Status& last_error() const { return last_error_; }
  // Roles of the last download; empty: all.
  const std::vector<std::string>& downloaded() const { return downloaded_; }
  // The broadcast state it holds; null before the first download.
  const Adapter* held() const { return held_.get(); }
  // Text of the last job_ended or cancel.
  const std::string& last_reason() const { return last_reason_; }

 private:
  class Channel;

  // Brings what is held up to the state of this round.
  absl::Status Fetch(const std::string& job_id, int64_t round);

  Coordinator* const coordinator_;
  Options options_;
  std::shared_ptr<Channel> channel_;
  proto::Welcome welcome_;
  absl::Status last_error_;
  std::string last_reason_;
  std::unique_ptr<Adapter> held_;
  std::string held_job_;
  int64_t held_round_ = 0;
  std::map<std::string, int> labels_;  // by job_id
  std::vector<std::string> downloaded_;
};

// Lets the clients work in turn until nobody has anything to do.
void WorkAll(const std::vector<FakeClient*>& clients);

}  // namespace weft::server

#endif  // WEFT_SERVER_TESTING_FAKE_CLIENT_H_
