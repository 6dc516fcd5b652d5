#ifndef WEFT_SIMULATION_ENGINE_ENGINE_H_
#define WEFT_SIMULATION_ENGINE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "adapters/adapter.h"
#include "adapters/encoding.h"
#include "proto/plan.pb.h"
#include "proto/scenario.pb.h"
#include "proto/status.pb.h"
#include "server/job/job_history.h"
#include "simulation/cohort/site.h"
#include "simulation/ranks/workers.h"
#include "training/trainer.h"

namespace weft::simulation {

// What an evaluation of one client on its own rows gave.
struct ClientEvaluation {
  int64_t client = 0;
  proto::Evaluation figures;
};

// One job over a population in simulated time. The round, its selection, rule, fold, journal and stop rules are the
// coordinator's, the client's half is the daemon's; between them is a call instead of a network, and a queue of events
// instead of time. Each event is an arrival, a sign of life or a loss at a moment that Behaviour has drawn; updates are
// computed when they are due to arrive. Same options, same bits, whatever the threads and ranks.
//
// With a folder, each committed round is durable (server/journal) before the next begins, and so is what clients keep
// (simulation/states): Create goes on from there. Not thread-safe.
class Engine {
 public:
  struct Options {
    proto::Scenario scenario;                // with defaults
    Site site;                               // its trainer is of the job's base, of one thread a call, a pass a call
    Workers* workers = nullptr;              // other ranks, with the run open, outlive the engine; null: one
    std::shared_ptr<const Adapter> initial;  // of the job's layout, to start from; null: seeded values
    // What an evaluation of the committed adapter covers: of each of these, evaluation.rows. Empty: `evaluators`
    // evaluate on their own rows instead.
    std::vector<const DataShard*> central;
    std::vector<int64_t> evaluators;
    double tokens_per_pass = 4096;
    double tokens_per_row = 1;  // about
    std::string folder;         // empty: nothing is written
    // Sees each update that counts, before it is summed; null: nobody. Of one rank only.
    std::function<void(const std::string& client, const EncodedUpdate& update)> on_update;
  };
  // Called with each round once it is committed, and evaluated where it is due. False ends the run before the next
  // round, to be gone on with later.
  using Observer = std::function<bool(const proto::RoundStatus& round)>;

  // INVALID_ARGUMENT: a job or population that can't run. Touches no folder.
  static absl::Status Check(const Options& options);
  // As Check; DATA_LOSS: a damaged folder; FAILED_PRECONDITION: a folder of another job.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(Options options);
  virtual ~Engine() = default;

  // Rounds that an observer has seen before: those of history() up to here.
  virtual int64_t reported() const = 0;

  // Until the job has ended or `observer` returns false. RESOURCE_EXHAUSTED: disk full; what was committed stays, and
  // Create goes on from it.
  virtual absl::Status Run(const Observer& observer) = 0;

  // Clients on their own rows of the evaluation split, with what they keep for themselves; those without such rows are
  // left out.
  virtual absl::StatusOr<std::vector<ClientEvaluation>> EvaluateClients(const std::vector<int64_t>& clients) = 0;

  virtual proto::JobStatus Status() const = 0;
  virtual const server::JobHistory& history() const = 0;
  // The state of the last committed round.
  virtual std::shared_ptr<const Adapter> state() const = 0;
  // The job's adapter of the best round, as `weft export` gives it, with its config.
  virtual absl::StatusOr<Adapter> Export(proto::JobConfig* config) const = 0;
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_ENGINE_ENGINE_H_
