#include "server/fold.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "common/status_macros.h"

namespace weft::server {
namespace {

int ThreadsOf(const proto::CoordinatorConfig& config) {
  if (config.aggregation_threads() > 0) return static_cast<int>(config.aggregation_threads());
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

int64_t RankOf(const Layout& layout) {
  int64_t rank = 0;
  for (const TensorSpec& tensor : layout.tensors()) {
    if (tensor.role == kRoleLoraA) rank = std::max(rank, tensor.shape[0]);
  }
  return rank;
}

absl::StatusOr<std::shared_ptr<Fold>> Fold::Create(const Options& options) {
  const CheckedJob& job = *options.job;
  WEFT_RETURN_IF_ERROR(CheckMemory(job, options.state->layout(), options.updates, *options.config));
  std::shared_ptr<Fold> fold(new Fold(options, ThreadsOf(*options.config)));
  WEFT_ASSIGN_OR_RETURN(fold->aggregator_, fold->MakeAggregator());
  fold->aggregator_->FillPlan(&fold->plan_);
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> sent, fold->SentAt(0));
  const uint64_t needed =
      UpdateDecoder::MemoryBytes({std::move(sent), fold->plan_.encoding(), fold->plan_.keep_components()});
  if (needed <= static_cast<uint64_t>(options.config->upload_memory_bytes())) return fold;
  return absl::InvalidArgumentError(
      absl::StrCat("receiving one update of rule ", job.config.aggregator().name(), " takes ", needed,
                   " bytes, more than this coordinator's upload_memory_bytes of ",
                   options.config->upload_memory_bytes(), "; use a smaller rank or encoding, or raise the limit"));
}

Fold::Fold(const Options& options, int threads)
    : job_(*options.job),
      state_(options.state),
      threads_(threads),
      mixed_ranks_(options.job->rule->facts().takes_mixed_ranks),
      job_rank_(RankOf(*options.job->layout)),
      plan_(options.plan) {}

absl::StatusOr<std::unique_ptr<aggregators::Aggregator>> Fold::MakeAggregator() const {
  return job_.rule->Create(job_.config, {state_.get(), plan_.round(), threads_});
}

int64_t Fold::PlannedRank(int64_t max_rank) const {
  int64_t rank = plan_.rank();
  if (mixed_ranks_ && max_rank > 0) rank = rank == 0 ? max_rank : std::min(rank, max_rank);
  return rank < job_rank_ ? rank : 0;
}

std::optional<proto::Plan> Fold::PlanFor(proto::Plan plan, int64_t max_rank) {
  {
    MutexLock lock(mutex_);
    if (aggregator_ == nullptr) return std::nullopt;
    aggregator_->FillPlan(&plan);
  }
  plan.set_rank(PlannedRank(max_rank));
  return plan;
}

absl::StatusOr<UpdateDecoder::Options> Fold::Expect(int64_t rank, int64_t max_rank) {
  const int64_t planned = PlannedRank(max_rank);
  const bool whole = planned == 0 && rank == 0;
  const bool part = mixed_ranks_ && rank > 0 && rank <= (planned == 0 ? job_rank_ : planned);
  if (!whole && !part) {
    const int64_t most = planned == 0 ? job_rank_ : planned;
    return absl::InvalidArgumentError(
        absl::StrCat("update: found rank ", rank, ", expected ", planned == 0 ? "0 (all components)" : "",
                     planned == 0 && mixed_ranks_ ? " or " : "", mixed_ranks_ ? absl::StrCat("1 to ", most) : "",
                     "; send the components that the plan asks for"));
  }
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> sent, SentAt(rank));
  return UpdateDecoder::Options{std::move(sent), plan_.encoding(), plan_.keep_components()};
}

absl::StatusOr<std::shared_ptr<const Layout>> Fold::SentAt(int64_t rank) {
  MutexLock lock(sent_mutex_);
  std::shared_ptr<const Layout>& sent = sent_[rank];
  if (sent == nullptr) {
    WEFT_ASSIGN_OR_RETURN(sent,
                          SentLayout(state_->layout(), {plan_.roles_sent().begin(), plan_.roles_sent().end()}, rank));
  }
  return sent;
}

absl::Status Fold::Validate(const aggregators::ClientUpdate& update) {
  MutexLock lock(mutex_);
  if (aggregator_ == nullptr) return absl::AbortedError("the round has closed without this update; wait for a plan");
  return aggregator_->Validate(update);
}

absl::Status Fold::Accumulate(std::span<const WaitingUpdate> updates) {
  std::vector<aggregators::ClientUpdate> group;
  group.reserve(updates.size());
  for (const WaitingUpdate& update : updates) {
    const proto::Update& facts = update.facts;
    group.push_back({facts.client_id(), facts.examples(), update.tensors, facts.rank()});
  }
  MutexLock lock(mutex_);
  return aggregator_->Accumulate(group);
}

absl::StatusOr<std::string> Fold::Save() {
  MutexLock lock(mutex_);
  if (aggregator_ == nullptr) return absl::AbortedError("the round has closed");
  return aggregator_->Save();
}

absl::Status Fold::Merge(std::string_view saved) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<aggregators::Aggregator> other, MakeAggregator());
  WEFT_RETURN_IF_ERROR(other->Restore(saved));
  MutexLock lock(mutex_);
  if (aggregator_ == nullptr) return absl::AbortedError("the round has closed");
  return aggregator_->MergeWith(std::move(*other));
}

absl::Status Fold::Finish() {
  MutexLock lock(mutex_);
  if (finished != nullptr) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(Adapter state, std::move(*aggregator_).Finish());
  aggregator_.reset();
  auto next = std::make_shared<const Adapter>(std::move(state));
  WEFT_ASSIGN_OR_RETURN(broadcast, Broadcast::Create(next));
  base_step = TensorsOf(*next, {"base_a", "base_b"});
  finished = std::move(next);
  return absl::OkStatus();
}

}  // namespace weft::server
