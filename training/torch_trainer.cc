#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/base.h"
#include "adapters/factors.h"
#include "adapters/forms/form.h"
#include "common/status_macros.h"
#include "proto/schema.h"
#include "training/base_change.h"
#include "training/base_model.h"
#include "training/data/schedule.h"
#include "training/device.h"
#include "training/local_training.h"
#include "training/torch_errors.h"
#include "training/trainer.h"

namespace weft {
namespace {

// The members of a cohort one after another over one base.
class TorchTrainer : public Trainer {
 public:
  TorchTrainer(std::unique_ptr<BaseModel> base, std::string base_hash, int threads)
      : base_(std::move(base)),
        base_hash_(std::move(base_hash)),
        threads_(threads),
        device_(DescribeDevice(base_->device(), threads)) {}

  absl::StatusOr<std::shared_ptr<const Layout>> PrepareJob(const proto::JobOffer& job) override;
  absl::StatusOr<std::vector<TrainResult>> Train(const proto::Plan& plan, std::span<const CohortMember> cohort,
                                                 const ProgressFunction& progress) override;
  absl::StatusOr<std::vector<proto::Evaluation>> Evaluate(const proto::EvaluationPlan& plan,
                                                          std::span<const CohortMember> cohort,
                                                          const ProgressFunction& progress) override;
  absl::Status AddToBase(const std::string& job_id, int64_t round, const Adapter& step) override;
  int64_t base_round(const std::string& job_id) const override;
  void ResetBase(const std::string& job_id) override;
  const std::string& base_hash() const override { return base_hash_; }
  const std::string& device() const override { return device_; }

 private:
  absl::StatusOr<const PreparedJob*> FindJob(const std::string& job_id) const;
  absl::Status CheckLength(int64_t max_length) const;

  const std::unique_ptr<BaseModel> base_;
  const std::string base_hash_;
  const int threads_;
  const std::string device_;
  std::map<std::string, PreparedJob> jobs_;  // by job_id
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
  WEFT_RETURN_IF_ERROR(model.CheckShard(*member.shard));
  WEFT_RETURN_IF_ERROR(CheckRank(*job.layout, member.rank));
  return member.control == nullptr ? absl::OkStatus() : CheckControl(job, member.control->layout());
}

absl::Status CheckMembers(const Model& model, const PreparedJob& job, std::span<const CohortMember> cohort) {
  for (const CohortMember& member : cohort) {
    if (const absl::Status status = CheckMember(model, job, member); !status.ok())
      return absl::Status(status.code(), absl::StrCat("client ", member.client_id, ": ", status.message()));
  }
  return absl::OkStatus();
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

absl::StatusOr<std::shared_ptr<const Layout>> TorchTrainer::PrepareJob(const proto::JobOffer& job) {
  proto::AdapterConfig config = job.adapter();
  proto::ApplyDefaults(&config);
  PreparedJob prepared;
  WEFT_ASSIGN_OR_RETURN(prepared.layout, MakeLayout(config, job.task(), base_->description()));
  WEFT_ASSIGN_OR_RETURN(prepared.form, CreateTorchForm(config));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(config));
  prepared.scale = form->Scale();
  prepared.num_labels = job.task().labels_size();
  if (const auto found = jobs_.find(job.job_id()); found != jobs_.end()) {
    prepared.linears = std::move(found->second.linears);
    prepared.base_round = found->second.base_round;
  } else {
    prepared.linears = base_->model().linears();
  }
  const std::shared_ptr<const Layout> layout = prepared.layout;
  jobs_.insert_or_assign(job.job_id(), std::move(prepared));
  return layout;
}

absl::StatusOr<const PreparedJob*> TorchTrainer::FindJob(const std::string& job_id) const {
  const auto found = jobs_.find(job_id);
  if (found != jobs_.end()) return &found->second;
  return absl::FailedPreconditionError(
      absl::StrCat("job ", job_id, " was not prepared on this trainer; call PrepareJob first"));
}

absl::Status TorchTrainer::CheckLength(int64_t max_length) const {
  const int64_t most = base_->model().max_length();
  if (most == 0 || (max_length >= 2 && max_length <= most)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("max_length is ", max_length, ", the base takes rows of 2 to ", most,
                                                 " tokens; set training.max_length so"));
}

absl::StatusOr<std::vector<TrainResult>> TorchTrainer::Train(const proto::Plan& given,
                                                             std::span<const CohortMember> cohort,
                                                             const ProgressFunction& progress) {
  proto::Plan plan = given;
  proto::ApplyDefaults(plan.mutable_training());
  WEFT_RETURN_IF_ERROR(proto::Validate(plan.training(), "training"));
  WEFT_ASSIGN_OR_RETURN(const PreparedJob* job, FindJob(plan.job_id()));
  WEFT_RETURN_IF_ERROR(CheckLength(plan.training().max_length()));
  WEFT_RETURN_IF_ERROR(CheckRoles(*job, plan));
  WEFT_RETURN_IF_ERROR(CheckTerms(*job, plan));
  WEFT_RETURN_IF_ERROR(CheckMembers(base_->model(), *job, cohort));
  int64_t done = 0, total = 0;
  for (const CohortMember& member : cohort) total += StepsFor(plan.training(), member.shard->rows());
  std::vector<TrainResult> results;
  const absl::Status status = CatchTorch([&]() -> absl::Status {
    at::set_num_threads(threads_);
    for (const CohortMember& member : cohort) {
      WEFT_ASSIGN_OR_RETURN(TrainResult result, TrainMember(*base_, *job, plan, member,
                                                            [&](int64_t, int64_t) { return progress(++done, total); }));
      results.push_back(std::move(result));
    }
    return absl::OkStatus();
  });
  WEFT_RETURN_IF_ERROR(status);
  return results;
}

absl::StatusOr<std::vector<proto::Evaluation>> TorchTrainer::Evaluate(const proto::EvaluationPlan& plan,
                                                                      std::span<const CohortMember> cohort,
                                                                      const ProgressFunction& progress) {
  WEFT_ASSIGN_OR_RETURN(const PreparedJob* job, FindJob(plan.job_id()));
  WEFT_RETURN_IF_ERROR(CheckLength(plan.max_length()));
  WEFT_RETURN_IF_ERROR(CheckMembers(base_->model(), *job, cohort));
  if (plan.rows() < 0)
    return absl::InvalidArgumentError(absl::StrCat("evaluation: rows is ", plan.rows(), ", expected 0 (all) or more"));
  int64_t before = 0, total = 0;
  for (const CohortMember& member : cohort) total += RowsToEvaluate(plan, member.shard->rows());
  std::vector<proto::Evaluation> results;
  const absl::Status status = CatchTorch([&]() -> absl::Status {
    at::set_num_threads(threads_);
    for (const CohortMember& member : cohort) {
      WEFT_ASSIGN_OR_RETURN(proto::Evaluation result,
                            EvaluateMember(*base_, *job, plan, member,
                                           [&](int64_t done, int64_t) { return progress(before + done, total); }));
      before += static_cast<int64_t>(result.examples());
      results.push_back(std::move(result));
    }
    return absl::OkStatus();
  });
  WEFT_RETURN_IF_ERROR(status);
  return results;
}

absl::Status TorchTrainer::AddToBase(const std::string& job_id, int64_t round, const Adapter& step) {
  WEFT_RETURN_IF_ERROR(FindJob(job_id).status());
  PreparedJob& job = jobs_.at(job_id);
  if (round != job.base_round + 1) {
    return absl::FailedPreconditionError(absl::StrCat("job ", job_id, ": base step of round ", round,
                                                      ", the last one applied is of round ", job.base_round,
                                                      "; apply each once, in order, or reset the job's base"));
  }
  return CatchTorch([&]() -> absl::Status {
    WEFT_ASSIGN_OR_RETURN(job.linears, AddToLinears(job.linears, step, job.scale));
    job.base_round = round;
    return absl::OkStatus();
  });
}

int64_t TorchTrainer::base_round(const std::string& job_id) const {
  const auto found = jobs_.find(job_id);
  return found == jobs_.end() ? 0 : found->second.base_round;
}

void TorchTrainer::ResetBase(const std::string& job_id) {
  const auto found = jobs_.find(job_id);
  if (found == jobs_.end()) return;
  found->second.linears = base_->model().linears();
  found->second.base_round = 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trainer>> CreateTorchTrainer(const TrainerOptions& options) {
  if (options.threads < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads: found ", options.threads, ", expected 0 (all cores) or more"));
  }
  const int cores = std::max<int>(1, std::thread::hardware_concurrency());
  const int threads = options.threads == 0 ? cores : options.threads;
  WEFT_ASSIGN_OR_RETURN(const at::Device device, SelectDevice(options.device));
  WEFT_ASSIGN_OR_RETURN(std::string base_hash, HashBase(options.base));
  std::unique_ptr<BaseModel> base;
  WEFT_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    WEFT_ASSIGN_OR_RETURN(base, BaseModel::Open(options.base, device));
    return absl::OkStatus();
  }));
  return std::make_unique<TorchTrainer>(std::move(base), std::move(base_hash), threads);
}

}  // namespace weft
