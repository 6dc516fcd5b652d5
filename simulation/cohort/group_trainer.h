#ifndef WEFT_SIMULATION_COHORT_GROUP_TRAINER_H_
#define WEFT_SIMULATION_COHORT_GROUP_TRAINER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
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
  std::optional<EncodedUpdate> tensors;  // of the sent layout, values checked; nothing: they lie at `rank`
  int rank = 0;                          // that has trained the client
  uint64_t bytes = 0;                    // that travelled
  absl::Status valid;                    // what the rule says of it
  KeptState next;                        // kept once it is accepted
};

// A client of an attempt.
struct CohortClient {
  int64_t index = 0;
  std::string name;
  int64_t max_rank = 0;
  const proto::HostileConfig* hostile = nullptr;  // null: honest
  double tokens = 0;                              // of one of its batches, about
  double work = 1;                                // beside that of other clients
};

// The local work of clients of one attempt, a group at a time: the client's half of the round (client/local_update.h)
// around one call of the trainer, and what the coordinator does with an update before it counts. Thread-safe.
class GroupTrainer {
 public:
  struct Options {
    LocalJob job;                              // max_rank as nobody's
    std::shared_ptr<server::Fold> fold;        // of the attempt
    std::shared_ptr<const Adapter> broadcast;  // as clients hold it
    std::function<proto::Plan(const std::string& client)> plan_before_rule;
    Trainer* trainer = nullptr;  // trains with one thread a call
    // Thread-safe, as `kept`.
    std::function<absl::StatusOr<std::unique_ptr<DataShard>>(int64_t client, bool flip_labels)> rows;
    std::function<absl::StatusOr<std::shared_ptr<const KeptState>>(int64_t client)> kept;
  };
  explicit GroupTrainer(Options options) : options_(std::move(options)) {}

  // For each client its update, or why it has none: its training failed or its encoding can't hold the result
  // (OUT_OF_RANGE, INVALID_ARGUMENT). The bits depend on who is in the group.
  absl::StatusOr<std::vector<absl::StatusOr<SentUpdate>>> Train(std::span<const CohortClient* const> group) const;

 private:
  absl::StatusOr<SentUpdate> Finish(const CohortClient& client, LocalUpdate local, int64_t rows,
                                    TrainResult trained) const;
  absl::StatusOr<EncodedUpdate> Receive(const CohortClient& client, LocalResult result, uint64_t* bytes) const;

  const Options options_;
};

}  // namespace weft::simulation

#endif  // WEFT_SIMULATION_COHORT_GROUP_TRAINER_H_
