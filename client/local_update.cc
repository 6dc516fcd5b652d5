#include "client/local_update.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/components.h"
#include "adapters/factors.h"
#include "adapters/forms/form.h"
#include "client/primitives.h"
#include "common/status_macros.h"

namespace weft {
namespace {

constexpr char kControl[] = "control.";
using Roles = google::protobuf::RepeatedPtrField<std::string>;

std::set<std::string> SetOf(const Roles& roles) { return {roles.begin(), roles.end()}; }

// The smallest of those that are not 0.
int64_t SmallestRank(int64_t a, int64_t b) { return a == 0 || b == 0 ? std::max(a, b) : std::min(a, b); }

// The broadcast adapter with the client's own roles.
absl::StatusOr<Adapter> OwnAdapter(const LocalJob& job, const Roles& local, const Adapter& broadcast,
                                   const KeptState& kept) {
  WEFT_RETURN_IF_ERROR(CheckPart(*job.layout, broadcast.layout(), "broadcast state"));
  Adapter adapter = Cut(broadcast, job.layout);
  if (local.empty() || kept.local == nullptr) return adapter;
  WEFT_RETURN_IF_ERROR(CheckPart(kept.local->layout(), *job.layout, "kept local tensors"));
  const std::set<std::string> roles = SetOf(local);
  for (const TensorSpec& tensor : kept.local->layout().tensors()) {
    if (roles.count(tensor.role) == 0) continue;
    const std::span<const float> own = kept.local->tensor(tensor);
    std::copy(own.begin(), own.end(), adapter.tensor(*job.layout->Find(tensor.name)).begin());
  }
  return adapter;
}

absl::Status Reinitialise(const LocalJob& job, const proto::Reinitialise& wanted, Adapter* adapter) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(job.adapter));
  Adapter fresh = adapter->Clone();
  WEFT_RETURN_IF_ERROR(form->Reinitialise(wanted.seed(), &fresh));
  const std::set<std::string> roles = SetOf(wanted.roles());
  for (const TensorSpec& tensor : job.layout->tensors()) {
    if (roles.count(tensor.role) == 0) continue;
    const std::span<const float> values = std::as_const(fresh).tensor(tensor);
    std::copy(values.begin(), values.end(), adapter->tensor(tensor).begin());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LocalUpdate> LocalUpdate::Begin(const LocalJob& job, const proto::Plan& plan,
                                               std::shared_ptr<const Adapter> broadcast,
                                               std::shared_ptr<const KeptState> kept) {
  if (kept == nullptr) kept = std::make_shared<const KeptState>();
  std::shared_ptr<const Adapter> start = broadcast;
  const bool own = (!plan.roles_local().empty() && kept->local != nullptr) || plan.has_reinitialise();
  if (own || !(broadcast->layout() == *job.layout)) {
    WEFT_ASSIGN_OR_RETURN(Adapter adapter, OwnAdapter(job, plan.roles_local(), *broadcast, *kept));
    if (plan.has_reinitialise()) WEFT_RETURN_IF_ERROR(Reinitialise(job, plan.reinitialise(), &adapter));
    start = std::make_shared<const Adapter>(std::move(adapter));
  }
  if (kept->error != nullptr) {
    WEFT_RETURN_IF_ERROR(CheckPart(kept->error->layout(), broadcast->layout(), "kept error"));
  }
  LocalUpdate local(job, plan, std::move(broadcast), std::move(kept), std::move(start));
  WEFT_RETURN_IF_ERROR(local.SetRank());
  if (plan.control_variates()) WEFT_RETURN_IF_ERROR(local.SetControl());
  return local;
}

absl::Status LocalUpdate::SetRank() {
  if (plan_.rank() < 0) {
    return absl::InvalidArgumentError(absl::StrCat("rank: found ", plan_.rank(), ", expected 0 (all) or more"));
  }
  const int64_t all = LargestRank(*job_.layout);
  int64_t rank = SmallestRank(plan_.rank(), job_.max_rank);
  if (plan_.has_rank_pruning()) rank = SmallestRank(rank, kept_->rank);
  if (rank == 0 || rank >= all) return absl::OkStatus();
  rank_ = rank;
  Adapter cut = start_->Clone();
  KeepPrefix(rank, &cut);
  start_ = std::make_shared<const Adapter>(std::move(cut));
  return absl::OkStatus();
}

absl::Status LocalUpdate::SetControl() {
  std::set<std::string> roles;
  for (const TensorSpec& tensor : broadcast_->layout().tensors()) {
    if (tensor.role.starts_with(kControl)) roles.insert(tensor.role);
  }
  if (roles.empty()) {
    return absl::InvalidArgumentError(
        "the plan asks for control variates, but found no tensor of role control.* in the broadcast state");
  }
  if (kept_->control != nullptr) {
    WEFT_RETURN_IF_ERROR(CheckPart(kept_->control->layout(), broadcast_->layout(), "kept control variates"));
  }
  WEFT_ASSIGN_OR_RETURN(own_control_, WithRoles(broadcast_->layout(), roles, kept_->control.get()));
  std::vector<TensorSpec> tensors = own_control_->layout().tensors();
  for (TensorSpec& tensor : tensors) {
    tensor.name = tensor.name.substr(sizeof(kControl) - 1);
    tensor.role = tensor.role.substr(sizeof(kControl) - 1);
  }
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, Layout::Create(std::move(tensors)));
  WEFT_RETURN_IF_ERROR(CheckPart(*layout, *job_.layout, "control variates"));
  correction_.emplace(std::move(layout));
  for (const TensorSpec& tensor : own_control_->layout().tensors()) {
    const std::span<const float> c = broadcast_->tensor(*broadcast_->layout().Find(tensor.name));
    const std::span<const float> own = own_control_->tensor(tensor);
    // The same order and shapes, so the same place.
    const std::span<float> to = correction_->values().subspan(static_cast<size_t>(tensor.offset), own.size());
    for (size_t i = 0; i < to.size(); ++i) to[i] = c[i] - own[i];
  }
  return absl::OkStatus();
}

CohortMember LocalUpdate::Member(const std::string& client_id, const DataShard* shard) const {
  return {.client_id = client_id,
          .start = start_.get(),
          .shard = shard,
          .seed = plan_.seed(),
          .rank = rank_,
          .control = correction_.has_value() ? &*correction_ : nullptr};
}

absl::StatusOr<LocalResult> LocalUpdate::End(const std::string& client_id, uint64_t examples,
                                             const TrainResult& result) && {
  const Adapter& trained = result.adapter;
  if (!(trained.layout() == *job_.layout)) return absl::InternalError("the trainer gave back another layout");
  KeptState next = *kept_;
  next.round = plan_.round();
  if (own_control_ != nullptr) {
    next.control = NextControl(plan_, result.metrics.steps(), *own_control_, *broadcast_, *start_, trained);
  }
  if (!plan_.roles_local().empty()) {
    WEFT_ASSIGN_OR_RETURN(next.local, OwnTensors(trained));
  }
  if (plan_.has_rank_pruning()) {
    const int64_t rank = rank_ == 0 ? LargestRank(*job_.layout) : rank_;
    WEFT_ASSIGN_OR_RETURN(next.rank, RankAfter(plan_.rank_pruning(), rank, *start_, trained));
  }
  WEFT_ASSIGN_OR_RETURN(Adapter delta, Delta(trained, own_control_ == nullptr ? nullptr : next.control.get()));
  WEFT_ASSIGN_OR_RETURN(Sent sent, Choose(std::move(delta)));
  std::string components = sent.components;
  std::optional<EncodedUpdate> tensors;
  if (IsLossy(plan_.encoding()) && plan_.encoding().error_feedback()) {
    WEFT_ASSIGN_OR_RETURN(tensors, EncodeWithFeedback(std::move(sent), &next.error));
  } else {
    WEFT_ASSIGN_OR_RETURN(EncodedDelta encoded,
                          EncodeClipped(std::move(sent.change), plan_.clip_update_norm(), plan_.encoding()));
    tensors = std::move(encoded.encoded);
  }
  proto::Update update;
  update.set_job_id(plan_.job_id());
  update.set_round(plan_.round());
  update.set_client_id(client_id);
  update.set_examples(examples);
  *update.mutable_metrics() = result.metrics;
  update.set_rank(rank_);
  return LocalResult{std::move(update), *std::move(tensors), std::move(components), std::move(next)};
}

absl::StatusOr<std::shared_ptr<const Adapter>> LocalUpdate::OwnTensors(const Adapter& trained) const {
  WEFT_ASSIGN_OR_RETURN(auto own, WithRoles(*job_.layout, SetOf(plan_.roles_local()), kept_->local.get()));
  if (own == nullptr) return nullptr;
  for (const TensorSpec& tensor : own->layout().tensors()) {
    const std::span<const float> values = trained.tensor(*job_.layout->Find(tensor.name));
    std::copy(values.begin(), values.end(), own->tensor(tensor).begin());
  }
  return own;
}

absl::StatusOr<Adapter> LocalUpdate::Delta(const Adapter& trained, const Adapter* next_control) const {
  const std::vector<std::string> roles(plan_.roles_sent().begin(), plan_.roles_sent().end());
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Layout> layout, SentLayout(broadcast_->layout(), roles, 0));
  Adapter delta(layout);
  for (const TensorSpec& tensor : layout->tensors()) {
    const bool control = tensor.role.starts_with(kControl);
    const Adapter* before = control ? own_control_.get() : start_.get();
    const Adapter* after = control ? next_control : &trained;
    const TensorSpec* place = before == nullptr ? nullptr : before->layout().Find(tensor.name);
    if (place == nullptr || after == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("roles sent: found ", tensor.role,
                                                     ", expected roles of the job's adapter",
                                                     control ? ", and control.* with control variates only" : ""));
    }
    const std::span<const float> x = before->tensor(*place), y = after->tensor(*place);
    const std::span<float> to = delta.tensor(tensor);
    for (size_t i = 0; i < to.size(); ++i) to[i] = y[i] - x[i];
  }
  return delta;
}

// What was dropped in coordinates that change from round to round says nothing about the next one.
bool LocalUpdate::KeepsErrorOf(const std::string& role) const {
  if (!plan_.has_reinitialise() || !RankAxis(role).has_value()) return true;
  const Roles& roles = plan_.reinitialise().roles();
  return std::none_of(roles.begin(), roles.end(), [](const std::string& r) { return RankAxis(r).has_value(); });
}

absl::StatusOr<LocalUpdate::Sent> LocalUpdate::Choose(Adapter delta) const {
  const std::vector<std::string> roles(plan_.roles_sent().begin(), plan_.roles_sent().end());
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, SentLayout(broadcast_->layout(), roles, rank_));
  Sent sent{layout, "", *layout == delta.layout() ? std::move(delta) : Cut(delta, layout)};
  const int64_t keep = plan_.keep_components();
  if (keep == 0 || NumComponents(*layout) <= keep) return sent;
  WEFT_ASSIGN_OR_RETURN(const std::vector<bool> kept, StrongestComponents(sent.change, *start_, keep));
  sent.components = ComponentBits(kept);
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Layout> packed, PackedLayout(*layout, sent.components));
  sent.change = Pack(sent.change, sent.components, packed);
  return sent;
}

absl::StatusOr<EncodedUpdate> LocalUpdate::EncodeWithFeedback(Sent sent, std::shared_ptr<const Adapter>* error) const {
  WEFT_ASSIGN_OR_RETURN(const auto next, WithRoles(broadcast_->layout(), SetOf(plan_.roles_sent()), error->get()));
  for (const TensorSpec& tensor : next->layout().tensors()) {
    if (!KeepsErrorOf(tensor.role)) std::ranges::fill(next->tensor(tensor), 0.0f);
  }
  const bool all = sent.components.empty();
  const std::shared_ptr<const Layout> packed = sent.change.layout_ptr();
  Adapter before = Cut(*next, sent.layout);
  const Adapter added = all ? before.Clone() : Pack(before, sent.components, packed);
  for (size_t i = 0; i < added.values().size(); ++i) sent.change.values()[i] += added.values()[i];
  WEFT_ASSIGN_OR_RETURN(EncodedDelta delta,
                        EncodeClipped(std::move(sent.change), plan_.clip_update_norm(), plan_.encoding()));
  Adapter rest = delta.encoded.Decode();
  for (size_t i = 0; i < rest.values().size(); ++i) rest.values()[i] = delta.clipped->values()[i] - rest.values()[i];
  if (!all) {
    // What was not chosen keeps its error.
    Adapter chosen(packed);
    std::ranges::fill(chosen.values(), 1.0f);
    const Adapter mask = Unpack(chosen, sent.components, sent.layout);
    const Adapter dense = Unpack(rest, sent.components, sent.layout);
    for (size_t i = 0; i < mask.values().size(); ++i) {
      if (mask.values()[i] != 0) before.values()[i] = dense.values()[i];
    }
  }
  PutBack(all ? rest : before, next.get());
  *error = next;
  return std::move(delta.encoded);
}

absl::StatusOr<Adapter> EvaluatedAdapter(const LocalJob& job, const proto::EvaluationPlan& plan,
                                         const Adapter& broadcast, const KeptState& kept) {
  return OwnAdapter(job, plan.roles_local(), broadcast, kept);
}

}  // namespace weft
