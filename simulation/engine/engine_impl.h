#ifndef WEFT_SIMULATION_ENGINE_ENGINE_IMPL_H_
#define WEFT_SIMULATION_ENGINE_ENGINE_IMPL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/broadcast/broadcast.h"
#include "server/fold.h"
#include "server/job/job_machine.h"
#include "server/journal/journal.h"
#include "simulation/cohort/cohort.h"
#include "simulation/engine/downloads.h"
#include "simulation/engine/engine.h"
#include "simulation/engine/virtual_candidates.h"
#include "simulation/states/client_states.h"

namespace weft::simulation {

// Where simulated time begins, and how long a client whose connection broke keeps its place in a round.
inline const absl::Time kStart = absl::FromUnixSeconds(1'000'000'000);
constexpr absl::Duration kRejoinGrace = absl::Seconds(30);
// Stands for the client that evaluates centrally.
constexpr char kCentral[] = "central";

// Something that happens to a client of the attempt under way.
struct Event {
  // Of events at one moment, in this order.
  enum class Kind { kLost, kBack, kSign, kAnswer, kTick };
  absl::Time at;
  int64_t client = 0;
  Kind kind = Kind::kTick;
  int64_t attempt = 0;  // counted over the run: events of attempts that are over are passed over

  bool operator>(const Event& other) const {
    return std::tie(at, client, kind) > std::tie(other.at, other.client, other.kind);
  }
};

// The attempt of a round under way.
struct Attempt {
  std::shared_ptr<server::Fold> fold;
  std::unique_ptr<Cohort> cohort;
  std::vector<server::WaitingUpdate> waiting;  // accepted, to be folded
  std::map<int64_t, absl::Time> works_until;   // clients that still show signs of life, by index
  std::map<int64_t, int64_t> signs;            // of each, so far
};

class EngineImpl final : public Engine {
 public:
  explicit EngineImpl(Options options) : options_(std::move(options)), downloads_(options_.site.population->size()) {}

  // Makes what a run begins or goes on with.
  absl::Status Open();

  absl::Status Run(const Observer& observer) override;
  absl::StatusOr<std::vector<ClientEvaluation>> EvaluateClients(const std::vector<int64_t>& clients) override;
  proto::JobStatus Status() const override;
  const server::JobHistory& history() const override { return machine_->history(); }
  std::shared_ptr<const Adapter> state() const override { return broadcast_->state(); }
  int64_t reported() const override { return reported_; }
  absl::StatusOr<Adapter> Export(proto::JobConfig* config) const override;

 private:
  const proto::JobConfig& config() const { return options_.site.job->config; }

  // engine.cc
  absl::Status OpenJournal(server::StoredJob* stored);
  absl::Status StartFresh(server::StoredJob* stored);
  absl::Status Restore(const server::StoredJob& stored);
  absl::Status Apply(server::JobActions actions);
  void Report();
  absl::Status End(const server::EndJob& end);
  // What clients download from now on.
  absl::Status Publish(std::shared_ptr<const server::Broadcast> broadcast);

  // engine_rounds.cc
  absl::Status OpenAttempt(const server::OpenRound& open);
  absl::StatusOr<Timeline> TimelineOf(const server::OpenRound& open, int64_t client);
  void Schedule(int64_t client, const Timeline& timeline);
  std::unique_ptr<Cohort> MakeCohort(std::vector<CohortClient> clients) const;
  absl::Status Handle(const Event& event);
  absl::Status ShowSign(const Event& event, const std::string& name);
  absl::Status Answer(int64_t client, const std::string& name);
  absl::Status FoldWaiting();
  absl::Status Commit();
  absl::Status Record(const server::Fold& fold, const proto::RoundStatus& summary);
  proto::RoundStatus Summarise(int64_t round);

  // engine_evaluation.cc
  absl::Status Evaluate(const std::vector<server::SendEvaluation>& wanted);
  absl::Status SaveEvaluation();
  proto::EvaluationPlan PlanOf(int64_t rows) const;
  absl::StatusOr<proto::Evaluation> EvaluateCentrally(const proto::EvaluationPlan& plan);
  absl::StatusOr<std::vector<ClientEvaluation>> EvaluateOwnRows(const proto::EvaluationPlan& plan,
                                                                const std::vector<int64_t>& clients);
  absl::StatusOr<std::vector<ClientEvaluation>> EvaluateSlice(const proto::EvaluationPlan& plan,
                                                              std::span<const int64_t> clients) const;

  const Options options_;
  std::string job_id_;
  std::shared_ptr<const Layout> layout_;
  std::unique_ptr<server::Journal> journal_;  // null: no folder
  std::unique_ptr<ClientStates> states_;
  std::shared_ptr<VirtualCandidates> candidates_;
  std::optional<server::JobMachine> machine_;

  absl::Time now_;  // simulated
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  int64_t attempts_ = 0;
  std::optional<Attempt> attempt_;
  proto::SimulatedRound notes_;  // of the next round
  absl::Time real_commit_;       // real time of the last commit
  Downloads downloads_;
  std::vector<std::string> roles_local_;
  int64_t kept_bytes_ = 0;  // of a client, at most

  std::shared_ptr<const server::Broadcast> broadcast_;  // of the last committed round
  std::shared_ptr<const Adapter> received_;             // what of it clients hold
  std::shared_ptr<const Adapter> initial_;
  std::shared_ptr<const Adapter> best_state_;  // of the best round before the last; null: there is none
  std::vector<std::pair<int64_t, std::shared_ptr<const Adapter>>> base_steps_;  // by round
  int64_t reported_ = 0;                                                        // rounds that the observer has seen
  const Observer* observer_ = nullptr;
  bool stopped_ = false;
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_ENGINE_ENGINE_IMPL_H_
