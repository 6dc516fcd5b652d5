#ifndef WEFT_SIMULATION_COHORT_COHORT_H_
#define WEFT_SIMULATION_COHORT_COHORT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/encoding.h"
#include "client/kept_state.h"
#include "client/local_update.h"
#include "proto/plan.pb.h"
#include "proto/scenario.pb.h"
#include "server/fold.h"
#include "training/data/shard.h"
#include "training/trainer.h"

namespace weft::simulation {

// What a virtual client sends, as the coordinator has received it.
struct SentUpdate {
  proto::Update facts;
  EncodedUpdate tensors;  // of the sent layout, values checked
  uint64_t bytes = 0;     // that travelled
  KeptState next;         // kept once it is accepted
};

// A client of an attempt.
struct CohortClient {
  int64_t index = 0;
  std::string name;
  int64_t max_rank = 0;
  const proto::HostileConfig* hostile = nullptr;  // null: honest
  double tokens = 0;                              // of one of its batches, about
};

// The local work of the clients of one attempt: the client's half of the round (client/local_update.h) around the
// trainer, whose passes take groups of clients. Groups are cut from the clients in the order given, so that they, and
// with them every bit, depend on the scenario alone. A group is trained when an update of it is first asked for, with
// the groups that come next, side by side on so many threads; what is never asked for need not be trained. Not
// thread-safe.
class Cohort {
 public:
  struct Options {
    LocalJob job;                              // max_rank as nobody's
    std::shared_ptr<server::Fold> fold;        // of the attempt
    std::shared_ptr<const Adapter> broadcast;  // as clients hold it
    std::function<proto::Plan(const std::string& client)> plan_before_rule;
    Trainer* trainer = nullptr;  // trains with one thread a call
    std::function<absl::StatusOr<std::unique_ptr<DataShard>>(int64_t client, bool flip_labels)> rows;
    std::function<absl::StatusOr<std::shared_ptr<const KeptState>>(int64_t client)> kept;  // thread-safe, as `rows`
    int threads = 1;
    double tokens_per_pass = 0;
  };
  Cohort(Options options, std::vector<CohortClient> clients);

  // The update of a client, each once. Errors: its training failed or its encoding can't hold the result (OUT_OF_RANGE,
  // INVALID_ARGUMENT: costs that client alone); others end the run.
  absl::StatusOr<SentUpdate> Take(int64_t index);

  int64_t groups() const { return static_cast<int64_t>(groups_.size()); }

 private:
  struct Group {
    std::vector<size_t> clients;
    bool trained = false;
  };

  absl::Status TrainFrom(size_t group);
  absl::Status TrainGroup(const Group& group);
  absl::StatusOr<SentUpdate> Finish(const CohortClient& client, LocalUpdate local, int64_t rows, TrainResult trained);
  absl::StatusOr<EncodedUpdate> Receive(const CohortClient& client, LocalResult result, uint64_t* bytes);

  const Options options_;
  const std::vector<CohortClient> clients_;
  std::vector<Group> groups_;
  std::unordered_map<int64_t, size_t> place_;                       // of a client by its index
  std::vector<size_t> group_of_;                                    // of each client
  std::vector<std::optional<absl::StatusOr<SentUpdate>>> results_;  // of each client
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_COHORT_COHORT_H_
