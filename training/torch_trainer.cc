#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/base.h"
#include "adapters/factors.h"
#include "adapters/forms/form.h"
#include "common/status_macros.h"
#include "proto/schema.h"
#include "training/base_change.h"
#include "training/base_model.h"
#include "training/cohort_training.h"
#include "training/data/schedule.h"
#include "training/device.h"
#include "training/memory.h"
#include "training/objective.h"
#include "training/torch_errors.h"
#include "training/trainer.h"

namespace weft {
namespace {

// The members of a cohort in groups over one base.
class TorchTrainer : public Trainer {
 public:
  TorchTrainer(std::unique_ptr<BaseModel> base, std::string base_hash, const TrainerOptions& options)
      : base_(std::move(base)),
        base_hash_(std::move(base_hash)),
        options_(options),
        device_(DescribeDevice(base_->device(), options.threads)) {}

  absl::StatusOr<std::shared_ptr<const Layout>> PrepareJob(const proto::JobOffer& job) override;
  absl::StatusOr<std::vector<absl::StatusOr<TrainResult>>> Train(const proto::Plan& plan,
                                                                 std::span<const CohortMember> cohort,
                                                                 const ProgressFunction& progress) override;
  absl::StatusOr<std::vector<absl::StatusOr<proto::Evaluation>>> Evaluate(const proto::EvaluationPlan& plan,
                                                                          std::span<const CohortMember> cohort,
                                                                          const ProgressFunction& progress) override;
  absl::Status AddToBase(const std::string& job_id, int64_t round, const Adapter& step) override;
  int64_t base_round(const std::string& job_id) const override;
  void ResetBase(const std::string& job_id) override;
  const std::string& base_hash() const override { return base_hash_; }
  const std::string& device() const override { return device_; }

 private:
  absl::StatusOr<const PreparedJob*> FindJob(const std::string& job_id) const;
  absl::Status CheckLength(const PreparedJob& job, int64_t max_length) const;
  // Hyper-parameters of each member, defaults applied and checked.
  absl::StatusOr<std::vector<proto::TrainingConfig>> TrainingOf(const PreparedJob& job, const proto::Plan& plan,
                                                                std::span<const CohortMember> cohort) const;
  int64_t TokensPerPass() const;
  absl::Status CheckMemory(const PreparedJob& job, const TrainingGroup& group) const;

  const std::unique_ptr<BaseModel> base_;
  const std::string base_hash_;
  const TrainerOptions options_;
  const std::string device_;
  std::map<std::string, std::unique_ptr<PreparedJob>> jobs_;  // by job_id; each stays where it is
};

// A correction is made of tensors of the job.
absl::Status CheckControl(const PreparedJob& job, const Layout& control) {
  for (const TensorSpec& spec : control.tensors()) {
    const TensorSpec* of_job = job.layout->Find(spec.name);
    if (of_job != nullptr && of_job->shape == spec.shape) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "control tensor ", spec.name, " [", absl::StrJoin(spec.shape, ", "), "], ",
        of_job == nullptr ? "the job's layout has no such tensor"
                          : absl::StrCat("the job's tensor is [", absl::StrJoin(of_job->shape, ", "), "]")));
  }
  return absl::OkStatus();
}

absl::Status CheckRank(const Layout& layout, int64_t rank) {
  if (rank == 0) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(layout));
  int64_t most = pairs.empty() ? 0 : pairs.front().rank;
  for (const FactorPair& pair : pairs) most = std::min(most, pair.rank);
  if (rank > 0 && rank <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("rank is ", rank, ", expected 0 (all) to ", most, ", the components of the job's LoRA factors"));
}

absl::Status CheckMember(const Model& model, const PreparedJob& job, const CohortMember& member) {
  if (!(member.start->layout() == *job.layout)) {
    return absl::InvalidArgumentError(absl::StrCat("adapter of layout ", member.start->layout().hash(),
                                                   ", the job's layout is ", job.layout->hash()));
  }
  if (member.shard->rows() == 0) {
    return absl::InvalidArgumentError("empty shard; prepare data with at least one row");
  }
  WEFT_RETURN_IF_ERROR(model.CheckShard(*member.shard, job.task.type()));
  WEFT_RETURN_IF_ERROR(CheckRank(*job.layout, member.rank));
  return member.control == nullptr ? absl::OkStatus() : CheckControl(job, member.control->layout());
}

absl::Status CheckRoles(const PreparedJob& job, const proto::Plan& plan) {
  std::set<std::string> known;
  for (const TensorSpec& spec : job.layout->tensors()) known.insert(spec.role);
  const auto refuse = [&](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan: ", what, "; the layout's roles are ", absl::StrJoin(known, ", ")));
  };
  if (plan.roles_trained().empty()) return refuse("roles_trained is empty");
  for (const std::string& role : plan.roles_trained()) {
    if (!known.contains(role)) return refuse(absl::StrCat("roles_trained names \"", role, "\""));
    if (absl::StartsWith(role, "fixed.")) {
      return absl::InvalidArgumentError(
          absl::StrCat("plan: roles_trained names \"", role, "\", which the form never trains; leave it out"));
    }
  }
  for (const auto& [role, scale] : plan.learning_rate_scale()) {
    if (!known.contains(role)) return refuse(absl::StrCat("learning_rate_scale names \"", role, "\""));
    if (scale >= 0 && std::isfinite(scale)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("plan: learning_rate_scale of ", role, " is ", scale, ", expected a number from 0 on"));
  }
  return absl::OkStatus();
}

absl::Status CheckTerms(const PreparedJob& job, const proto::Plan& plan) {
  if (!(plan.proximal_mu() >= 0 && std::isfinite(plan.proximal_mu()))) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan: proximal_mu is ", plan.proximal_mu(), ", expected a number from 0 on"));
  }
  if (!plan.has_rank_pruning()) return absl::OkStatus();
  const proto::RankPruning& pruning = plan.rank_pruning();
  WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(*job.layout));
  if (pairs.empty()) {
    return absl::InvalidArgumentError("plan: rank_pruning needs LoRA factors, the job's layout has none");
  }
  if (pruning.lambda() >= 0 && std::isfinite(pruning.lambda()) && pruning.gamma() > 0 && pruning.gamma() <= 1) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("plan: rank_pruning has lambda ", pruning.lambda(), " and gamma ",
                                                 pruning.gamma(), ", expected lambda from 0 on and 0 < gamma <= 1"));
}

// The members that pass their checks, and where each stands in the cohort; the others' results are their refusals.
struct Checked {
  std::vector<size_t> indices;
  std::vector<absl::Status> refusals;  // of each of the cohort
};

Checked CheckMembers(const Model& model, const PreparedJob& job, std::span<const CohortMember> cohort) {
  Checked checked;
  for (size_t k = 0; k < cohort.size(); ++k) {
    const absl::Status status = CheckMember(model, job, cohort[k]);
    checked.refusals.push_back(status.ok() ? status
                                           : absl::Status(status.code(), absl::StrCat("client ", cohort[k].client_id,
                                                                                      ": ", status.message())));
    if (status.ok()) checked.indices.push_back(k);
  }
  return checked;
}

// Puts results of the members that were checked among the refusals of the rest.
template <typename T>
std::vector<absl::StatusOr<T>> InOrder(const Checked& checked, std::vector<absl::StatusOr<T>> results) {
  std::vector<absl::StatusOr<T>> all;
  size_t next = 0;
  for (const absl::Status& refusal : checked.refusals) {
    if (refusal.ok()) {
      all.push_back(std::move(results[next++]));
    } else {
      all.emplace_back(refusal);
    }
  }
  return all;
}

absl::StatusOr<std::shared_ptr<const Layout>> TorchTrainer::PrepareJob(const proto::JobOffer& job) {
  proto::AdapterConfig config = job.adapter();
  proto::ApplyDefaults(&config);
  auto prepared = std::make_unique<PreparedJob>();
  prepared->task = job.task();
  proto::ApplyDefaults(&prepared->task);
  WEFT_ASSIGN_OR_RETURN(prepared->layout, MakeLayout(config, prepared->task, base_->description()));
  WEFT_ASSIGN_OR_RETURN(prepared->form, CreateTorchForm(config));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(config));
  for (const LinearModule& module : base_->description().linears) prepared->scales.push_back(form->Scale(module.name));
  if (const auto found = jobs_.find(job.job_id()); found != jobs_.end()) {
    prepared->linears = found->second->linears;
    prepared->base_round = found->second->base_round;
  } else {
    prepared->linears = base_->model().linears();
  }
  WEFT_ASSIGN_OR_RETURN(
      prepared->objective,
      Objective::Create({.base = base_.get(), .task = &prepared->task, .linears = &prepared->linears}));
  const std::shared_ptr<const Layout> layout = prepared->layout;
  jobs_[job.job_id()] = std::move(prepared);
  return layout;
}

absl::StatusOr<const PreparedJob*> TorchTrainer::FindJob(const std::string& job_id) const {
  const auto found = jobs_.find(job_id);
  if (found != jobs_.end()) return found->second.get();
  return absl::FailedPreconditionError(
      absl::StrCat("job ", job_id, " was not prepared on this trainer; call PrepareJob first"));
}

absl::Status TorchTrainer::CheckLength(const PreparedJob& job, int64_t max_length) const {
  const int64_t most = base_->model().max_length(), prompt = job.form->prompt_tokens();
  if (most == 0 || (max_length >= 2 && max_length + prompt <= most)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("max_length is ", max_length, ", the base takes rows of 2 to ", most, " tokens",
                   prompt == 0 ? "" : absl::StrCat(" with the prompt's ", prompt), "; set training.max_length so"));
}

absl::StatusOr<std::vector<proto::TrainingConfig>> TorchTrainer::TrainingOf(
    const PreparedJob& job, const proto::Plan& plan, std::span<const CohortMember> cohort) const {
  std::vector<proto::TrainingConfig> result;
  for (const CohortMember& member : cohort) {
    proto::TrainingConfig training = member.training == nullptr ? plan.training() : *member.training;
    proto::ApplyDefaults(&training);
    WEFT_RETURN_IF_ERROR(proto::Validate(training, "training"));
    WEFT_RETURN_IF_ERROR(CheckLength(job, training.max_length()));
    result.push_back(std::move(training));
  }
  return result;
}

int64_t TorchTrainer::TokensPerPass() const {
  if (options_.tokens_per_pass > 0) return options_.tokens_per_pass;
  // Enough for products to run at their best; more would only hold more activations.
  return base_->device().is_cpu() ? 4096 : 65536;
}

at::ScalarType DtypeOf(const proto::TrainingConfig& training) {
  return training.compute() == "bf16" ? at::kBFloat16 : at::kFloat;
}

// Tokens a member brings to a pass, on average and at most.
struct MemberTokens {
  double mean;
  int64_t most;
};

MemberTokens TokensOf(const PreparedJob& job, const CohortMember& member, const proto::TrainingConfig& training) {
  const DataShard& shard = *member.shard;
  const int64_t rows = std::min(training.batch_size(), shard.rows()), prompt = job.form->prompt_tokens();
  const int64_t texts = shard.kind() == RowKind::kPairs ? 2 : 1;
  if (shard.longest_row() == 0) return {static_cast<double>(rows * (1 + prompt)), rows * (1 + prompt)};
  const double mean = std::min(static_cast<double>(shard.tokens()) / static_cast<double>(shard.rows() * texts),
                               static_cast<double>(training.max_length()));
  const int64_t longest = std::min(shard.longest_row(), training.max_length());
  return {static_cast<double>(rows * texts) * (mean + static_cast<double>(prompt)), rows * texts * (longest + prompt)};
}

absl::Status TorchTrainer::CheckMemory(const PreparedJob& job, const TrainingGroup& group) const {
  if (!base_->device().is_cpu()) return absl::OkStatus();  // the device's own allocator says when it is full
  const proto::TrainingConfig& training = group.training.front();
  const at::ScalarType dtype = DtypeOf(training);
  MemoryEstimate estimate;
  estimate.calls = options_.calls;
  for (size_t k = 0; k < group.members.size(); ++k) {
    estimate.tokens += TokensOf(job, group.members[k], group.training[k]).most;
    estimate.adapter_bytes += 5 * static_cast<int64_t>(sizeof(float)) * job.layout->num_elements();
  }
  if (base_->description().transformer.has_value() && base_->description().transformer->patches.has_value()) {
    estimate.tokens *= 1 + base_->description().transformer->patches->count();
  }
  estimate.activation_bytes = estimate.tokens * base_->model().BytesPerToken(dtype, training.checkpointing());
  for (const FrozenLinear& linear : job.linears) {
    if (!linear.IsPrepared(dtype)) estimate.base_bytes += linear.PreparedBytes(dtype);
  }
  return CheckMemoryFor(estimate, training, options_.memory_bytes);
}

absl::StatusOr<std::vector<absl::StatusOr<TrainResult>>> TorchTrainer::Train(const proto::Plan& plan,
                                                                             std::span<const CohortMember> cohort,
                                                                             const ProgressFunction& progress) {
  WEFT_ASSIGN_OR_RETURN(const PreparedJob* job, FindJob(plan.job_id()));
  WEFT_RETURN_IF_ERROR(CheckRoles(*job, plan));
  WEFT_RETURN_IF_ERROR(CheckTerms(*job, plan));
  WEFT_ASSIGN_OR_RETURN(const std::vector<proto::TrainingConfig> training, TrainingOf(*job, plan, cohort));
  const Checked checked = CheckMembers(base_->model(), *job, cohort);
  // Groups depend on the cohort alone, so that the same cohort gives the same bits.
  std::vector<TrainingGroup> groups;
  double tokens = 0;
  int64_t total = 0;
  for (const size_t k : checked.indices) {
    const double own = TokensOf(*job, cohort[k], training[k]).mean;
    if (groups.empty() || tokens + own > static_cast<double>(TokensPerPass()) ||
        !SamePass(groups.back().training.front(), training[k])) {
      groups.emplace_back();
      tokens = 0;
    }
    groups.back().members.push_back(cohort[k]);
    groups.back().training.push_back(training[k]);
    tokens += own;
    total += StepsFor(training[k], cohort[k].shard->rows());
  }
  for (const TrainingGroup& group : groups) WEFT_RETURN_IF_ERROR(CheckMemory(*job, group));
  std::vector<absl::StatusOr<TrainResult>> results;
  int64_t before = 0;
  const bool lays_out = !groups.empty() && !job->linears.front().IsPrepared(DtypeOf(groups.front().training.front()));
  WEFT_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    at::set_num_threads(options_.threads);
    for (const TrainingGroup& group : groups) {
      int64_t done_of_group = 0;
      WEFT_ASSIGN_OR_RETURN(std::vector<absl::StatusOr<TrainResult>> some,
                            TrainGroup(*base_, *job, plan, group, [&](int64_t done, int64_t) {
                              done_of_group = done;
                              return progress(before + done, total);
                            }));
      before += done_of_group;
      std::move(some.begin(), some.end(), std::back_inserter(results));
    }
    return absl::OkStatus();
  }));
  if (lays_out) base_->DropPages();  // products have copies of their own now
  return InOrder(checked, std::move(results));
}

absl::StatusOr<std::vector<absl::StatusOr<proto::Evaluation>>> TorchTrainer::Evaluate(
    const proto::EvaluationPlan& plan, std::span<const CohortMember> cohort, const ProgressFunction& progress) {
  WEFT_ASSIGN_OR_RETURN(const PreparedJob* job, FindJob(plan.job_id()));
  WEFT_RETURN_IF_ERROR(CheckLength(*job, plan.max_length()));
  if (plan.rows() < 0)
    return absl::InvalidArgumentError(absl::StrCat("evaluation: rows is ", plan.rows(), ", expected 0 (all) or more"));
  const Checked checked = CheckMembers(base_->model(), *job, cohort);
  std::vector<CohortMember> members;
  for (const size_t k : checked.indices) members.push_back(cohort[k]);
  std::vector<absl::StatusOr<proto::Evaluation>> results;
  WEFT_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    at::set_num_threads(options_.threads);
    WEFT_ASSIGN_OR_RETURN(results, EvaluateMembers(*base_, *job, plan, members, progress));
    return absl::OkStatus();
  }));
  return InOrder(checked, std::move(results));
}

absl::Status TorchTrainer::AddToBase(const std::string& job_id, int64_t round, const Adapter& step) {
  WEFT_RETURN_IF_ERROR(FindJob(job_id).status());
  PreparedJob& job = *jobs_.at(job_id);
  if (round != job.base_round + 1) {
    return absl::FailedPreconditionError(absl::StrCat("job ", job_id, ": base step of round ", round,
                                                      ", the last one applied is of round ", job.base_round,
                                                      "; apply each once, in order, or reset the job's base"));
  }
  return CatchTorch([&]() -> absl::Status {
    WEFT_ASSIGN_OR_RETURN(job.linears,
                          AddToLinears(job.linears, base_->description(), step, job.scales, base_->device()));
    job.base_round = round;
    return absl::OkStatus();
  });
}

int64_t TorchTrainer::base_round(const std::string& job_id) const {
  const auto found = jobs_.find(job_id);
  return found == jobs_.end() ? 0 : found->second->base_round;
}

void TorchTrainer::ResetBase(const std::string& job_id) {
  const auto found = jobs_.find(job_id);
  if (found == jobs_.end()) return;
  found->second->linears = base_->model().linears();
  found->second->base_round = 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trainer>> CreateTorchTrainer(const TrainerOptions& options) {
  if (options.threads < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads: found ", options.threads, ", expected 0 (all cores) or more"));
  }
  TrainerOptions chosen = options;
  if (chosen.threads == 0) chosen.threads = std::max<int>(1, static_cast<int>(std::thread::hardware_concurrency()));
  WEFT_ASSIGN_OR_RETURN(const at::Device device, SelectDevice(options.device));
  if (device.is_cpu()) KeepFreedMemory();
  WEFT_ASSIGN_OR_RETURN(std::string base_hash, HashBase(options.base));
  std::unique_ptr<BaseModel> base;
  WEFT_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    WEFT_ASSIGN_OR_RETURN(base, BaseModel::Open(options.base, device));
    return absl::OkStatus();
  }));
  return std::make_unique<TorchTrainer>(std::move(base), std::move(base_hash), chosen);
}

}  // namespace weft
