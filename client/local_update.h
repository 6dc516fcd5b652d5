#ifndef WEFT_CLIENT_LOCAL_UPDATE_H_
#define WEFT_CLIENT_LOCAL_UPDATE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/encoding.h"
#include "client/kept_state.h"
#include "proto/plan.pb.h"
#include "training/trainer.h"

namespace weft {

// A job as a client sees it.
struct LocalJob {
  proto::AdapterConfig adapter;
  std::shared_ptr<const Layout> layout;
  // Most components of a LoRA factor that this client trains; 0: as many as the job has.
  int64_t max_rank = 0;
};

// What a client's part of a round comes to.
struct LocalResult {
  proto::Update update;
  // Of the sent layout (adapters/factors.h), or, with `components`, of its packed layout (adapters/components.h).
  EncodedUpdate tensors;
  std::string components;
  // Kept from now on, once the coordinator has accepted the update and not before.
  KeptState next;
};

// Everything of a plan that is not a gradient step: from what was broadcast and what the client kept to what the
// trainer starts from, and from what it made to what is sent and what is kept. Knows neither torch nor transport: the
// daemon and the simulation run it alike. Begin, train Member, End. Not thread-safe.
//
//   x = the broadcast adapter, its roles_local replaced by the client's own, reinitialise.roles by seeded values, cut
//   to
//       the client's rank; y = x trained.
//   update = y - x over roles_sent, and c_k' - c_k under the roles control.* (SCAFFOLD, arXiv 1910.06378, option II:
//       c_k' = c_k - c + (x - y) / (T eta)); of its components only the strongest under keep_components (LoRA-A2, arXiv
//       2410.22815); plus the error kept; scaled down to clip_update_norm; encoded. The error kept then is what the
//       encoding alone has dropped (arXiv 1809.07599).
class LocalUpdate {
 public:
  // `broadcast` begins with the job's tensors. INVALID_ARGUMENT: what is broadcast or kept lacks what the plan asks
  // for, or does not fit the job.
  static absl::StatusOr<LocalUpdate> Begin(const LocalJob& job, const proto::Plan& plan,
                                           std::shared_ptr<const Adapter> broadcast,
                                           std::shared_ptr<const KeptState> kept);

  // For the trainer; refers to this object, which must stay where it is.
  CohortMember Member(const std::string& client_id, const DataShard* shard) const;
  const Adapter& start() const { return *start_; }
  // Components trained; 0: all.
  int64_t rank() const { return rank_; }

  // `result` is what the trainer made of Member, from `examples` rows. INVALID_ARGUMENT: values that the plan's
  // encoding can't hold. Plain f32 values are checked by who receives them.
  absl::StatusOr<LocalResult> End(const std::string& client_id, uint64_t examples, const TrainResult& result) &&;

 private:
  LocalUpdate(const LocalJob& job, const proto::Plan& plan, std::shared_ptr<const Adapter> broadcast,
              std::shared_ptr<const KeptState> kept, std::shared_ptr<const Adapter> start)
      : job_(job), plan_(plan), broadcast_(std::move(broadcast)), kept_(std::move(kept)), start_(std::move(start)) {}

  absl::Status SetRank();
  absl::Status SetControl();
  // The trained values of roles_local.
  absl::StatusOr<std::shared_ptr<const Adapter>> OwnTensors(const Adapter& trained) const;
  // y - x and c_k' - c_k, of the layout of `roles_sent` not cut to a rank.
  absl::StatusOr<Adapter> Delta(const Adapter& trained, const Adapter* next_control) const;
  // What travels of a delta that is not cut to a rank.
  struct Sent {
    std::shared_ptr<const Layout> layout;  // cut to the rank
    std::string components;                // empty: all
    Adapter change;                        // of the packed layout, if there are components
  };
  absl::StatusOr<Sent> Choose(Adapter delta) const;
  // Adds the error kept, clips, encodes; the next error replaces `error`.
  absl::StatusOr<EncodedUpdate> EncodeWithFeedback(Sent sent, std::shared_ptr<const Adapter>* error) const;
  bool KeepsErrorOf(const std::string& role) const;

  LocalJob job_;
  proto::Plan plan_;
  std::shared_ptr<const Adapter> broadcast_;
  std::shared_ptr<const KeptState> kept_;
  std::shared_ptr<const Adapter> start_;  // the broadcast itself where nothing is the client's own
  int64_t rank_ = 0;
  std::shared_ptr<const Adapter> own_control_;  // c_k
  std::optional<Adapter> correction_;           // c - c_k, under the names of the job's tensors
};

// What an evaluation plan starts from: the broadcast adapter with the client's own roles_local. Errors as Begin.
absl::StatusOr<Adapter> EvaluatedAdapter(const LocalJob& job, const proto::EvaluationPlan& plan,
                                         const Adapter& broadcast, const KeptState& kept);

}  // namespace weft

#endif  // WEFT_CLIENT_LOCAL_UPDATE_H_
