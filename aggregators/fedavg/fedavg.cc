// The rule "fedavg": McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
// arXiv 1602.05629, Algorithm 1: w_{t+1} = sum_k (n_k / n) w_k over the updates of the round, n_k = min(examples of k,
// max_examples) and n their sum. Applied to every tensor of the adapter; for LoRA that is the mean of the factors A and
// B apart (FedIT, arXiv 2305.05644), not of their products.

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "aggregators/core/exact_sum.h"
#include "aggregators/core/registry.h"
#include "aggregators/fedavg/fedavg.pb.h"
#include "common/status_macros.h"
#include "proto/schema.h"

namespace weft::aggregators {
namespace {

constexpr char kName[] = "fedavg";
// More rows than any client holds: a broken client rather than a large one, so it is refused and not cut.
constexpr uint64_t kAbsurdExamples = uint64_t{1} << 32;

absl::StatusOr<proto::FedAvgConfig> ReadConfig(const proto::JobConfig& job) {
  proto::FedAvgConfig config;
  WEFT_RETURN_IF_ERROR(proto::FromStruct(job.aggregator().config(), "aggregator.config", &config));
  return config;
}

class FedAvg : public Aggregator {
 public:
  FedAvg(const proto::FedAvgConfig& config, const CreateOptions& options)
      : max_examples_(static_cast<uint64_t>(config.max_examples())),
        layout_(options.global->layout_ptr()),
        binding_(absl::StrCat(kName, " max_examples=", max_examples_, " round=", options.round)),
        sum_(layout_) {}

  void FillPlan(proto::Plan* plan) const override {
    plan->clear_roles_trained();
    plan->clear_roles_sent();
    std::set<std::string> seen;
    for (const TensorSpec& tensor : layout_->tensors()) {
      if (!seen.insert(tensor.role).second) continue;
      plan->add_roles_trained(tensor.role);
      plan->add_roles_sent(tensor.role);
    }
    plan->set_max_examples(max_examples_);
  }

  absl::Status Validate(const ClientUpdate& update) const override {
    if (update.examples == 0 || update.examples > kAbsurdExamples) {
      return absl::InvalidArgumentError(absl::StrCat("examples: found ", update.examples, ", expected 1 to ",
                                                     kAbsurdExamples, "; send the rows the update was trained on"));
    }
    return sum_.Check(update.adapter, Weight(update));
  }

  absl::Status Accumulate(const ClientUpdate& update) override {
    WEFT_RETURN_IF_ERROR(Validate(update));
    sum_.AddChecked(update.adapter, Weight(update));
    return absl::OkStatus();
  }

  absl::Status MergeWith(Aggregator&& other) override {
    auto* const part = dynamic_cast<FedAvg*>(&other);
    if (part == nullptr || part == this || part->binding_ != binding_) {
      return absl::InvalidArgumentError(absl::StrCat("merge: found ",
                                                     part == nullptr ? "another rule"
                                                     : part == this  ? "the sum itself"
                                                                     : part->binding_,
                                                     ", expected another part of ", binding_,
                                                     "; merge parts of one round"));
    }
    return sum_.Merge(part->sum_);
  }

  absl::StatusOr<Adapter> Finish() && override { return sum_.Mean(); }

  absl::StatusOr<std::string> Save() const override { return sum_.Save(binding_); }
  absl::Status Restore(std::string_view state) override { return sum_.Restore(binding_, state); }
  int64_t count() const override { return sum_.updates(); }

 private:
  uint64_t Weight(const ClientUpdate& update) const { return std::min(update.examples, max_examples_); }

  uint64_t max_examples_;
  std::shared_ptr<const Layout> layout_;
  std::string binding_;  // what parts and saved states must agree on, besides the layout
  ExactSum sum_;
};

class FedAvgRule : public Rule {
 public:
  std::string_view name() const override { return kName; }

  Facts facts() const override {
    return {.linear = true,
            .works_under_secure_aggregation = true,
            .works_under_central_dp = true,
            .returns_single_update = true};
  }

  absl::Status CheckJob(const proto::JobConfig& job, const Layout&) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedAvgConfig config, ReadConfig(job));
    if (!job.selection().has_clients()) return absl::OkStatus();
    // Under this selection the number of updates is known, so that the sum's range can be promised before round 1.
    const auto clients = static_cast<uint64_t>(job.selection().clients());
    const uint64_t largest = ExactSum::kMaxTotalWeight / std::max<uint64_t>(clients, 1);
    if (static_cast<uint64_t>(config.max_examples()) <= largest) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("aggregator.config.max_examples: found ", config.max_examples(), ", expected at most ", largest,
                     " with selection.clients = ", clients, ", so that the sum of weights fits; lower one of the two"));
  }

  absl::StatusOr<std::unique_ptr<Aggregator>> Create(const proto::JobConfig& job,
                                                     const CreateOptions& options) const override {
    WEFT_ASSIGN_OR_RETURN(const proto::FedAvgConfig config, ReadConfig(job));
    return std::make_unique<FedAvg>(config, options);
  }
};

WEFT_REGISTER_RULE(FedAvgRule);

}  // namespace
}  // namespace weft::aggregators
