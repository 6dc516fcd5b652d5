#ifndef WEFT_SERVER_FOLD_H_
#define WEFT_SERVER_FOLD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "adapters/adapter.h"
#include "adapters/codec.h"
#include "adapters/encoding.h"
#include "aggregators/core/aggregator.h"
#include "common/mutex.h"
#include "proto/daemon.pb.h"
#include "proto/plan.pb.h"
#include "server/broadcast/broadcast.h"
#include "server/submit_check.h"

namespace weft::server {

// Components of the LoRA factors of a layout; 0: it has none.
int64_t RankOf(const Layout& layout);

// An accepted update that waits to be folded.
struct WaitingUpdate {
  proto::Update facts;
  EncodedUpdate tensors;
  uint64_t reserved_bytes = 0;  // of upload memory, given back once it is folded
};

// The updates of one attempt on their way into the next state. Its own mutex serialises the aggregator and is held
// while it works: whoever holds it never takes the coordinator's, which guards the public members.
class Fold {
 public:
  // The sum's own memory traffic is spread over so many updates; more would gain little and hold upload memory longer.
  static constexpr size_t kLargestGroup = 16;
  struct Options {
    const CheckedJob* job = nullptr;       // outlives the fold
    std::shared_ptr<const Adapter> state;  // what the round starts from
    proto::Plan plan;                      // before the rule has filled it; of nobody
    int64_t updates = 1;                   // at most
    const proto::CoordinatorConfig* config = nullptr;
  };
  // INVALID_ARGUMENT: more memory than the coordinator allows. Errors of the rule.
  static absl::StatusOr<std::shared_ptr<Fold>> Create(const Options& options);

  // The plan of a client that trains at most `max_rank` components (0: all), from its plan before the rule. Nothing
  // once finished: nobody is asked any more.
  std::optional<proto::Plan> PlanFor(proto::Plan plan, int64_t max_rank);
  // Components that it is asked for; 0: all.
  int64_t PlannedRank(int64_t max_rank) const;
  // What such a client's update of `rank` components (0: all) must be. INVALID_ARGUMENT: it was not asked for that
  // rank.
  absl::StatusOr<UpdateDecoder::Options> Expect(int64_t rank, int64_t max_rank);
  // The layout of any update of that rank.
  absl::StatusOr<std::shared_ptr<const Layout>> SentAt(int64_t rank);

  // ABORTED once finished; else as Aggregator::Validate.
  absl::Status Validate(const aggregators::ClientUpdate& update);
  // All in one pass.
  absl::Status Accumulate(std::span<const WaitingUpdate> updates);
  // What was folded so far, to be merged elsewhere into a fold of the same options; the bits do not depend on where an
  // update was folded. ABORTED once finished.
  absl::StatusOr<std::string> Save();
  absl::Status Merge(std::string_view saved);
  // Fills what follows; again without effect.
  absl::Status Finish();
  std::shared_ptr<const Adapter> finished;
  std::shared_ptr<const Broadcast> broadcast;  // of the finished state
  std::shared_ptr<const Adapter> base_step;    // of the finished state; null: the base stays as it was

  int64_t round() const { return plan_.round(); }
  const proto::Plan& plan() const { return plan_; }

  // Whether what waits is to be folded now: nobody folds, and no other update is about to join the group, or the group
  // is large enough.
  bool Due() const { return !folding && !waiting.empty() && (arriving == 0 || waiting.size() >= kLargestGroup); }
  // All were folded.
  bool Settled() const { return !folding && waiting.empty(); }
  std::vector<WaitingUpdate> waiting;  // accepted, for whoever folds
  int arriving = 0;                    // received, being checked and journaled
  bool folding = false;                // a thread folds
  bool closed = false;                 // no further update; commit when all are folded
  bool busy = false;                   // a thread commits
  absl::Time retry_at = absl::InfinitePast();

 private:
  Fold(const Options& options, int threads);
  absl::StatusOr<std::unique_ptr<aggregators::Aggregator>> MakeAggregator() const;

  const CheckedJob& job_;
  const std::shared_ptr<const Adapter> state_;
  const int threads_;
  const bool mixed_ranks_;
  const int64_t job_rank_;
  proto::Plan plan_;  // as the rule fills it
  Mutex sent_mutex_;
  std::map<int64_t, std::shared_ptr<const Layout>> sent_;  // by rank; guarded by sent_mutex_
  Mutex mutex_;
  std::unique_ptr<aggregators::Aggregator> aggregator_;  // null once finished
};

}  // namespace weft::server

#endif  // WEFT_SERVER_FOLD_H_
