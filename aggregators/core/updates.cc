#include "aggregators/core/updates.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/factors.h"
#include "aggregators/core/exact_sum.h"
#include "common/status_macros.h"

namespace weft::aggregators {
namespace {

// More rows than any client holds: a broken client rather than a large one, so it is refused and not cut.
constexpr uint64_t kAbsurdExamples = uint64_t{1} << 32;

// The largest rank of a factor; 0 where there is none.
int64_t LargestRank(const Layout& layout) {
  int64_t rank = 0;
  for (const TensorSpec& tensor : layout.tensors()) {
    if (const auto axis = RankAxis(tensor.role); axis.has_value()) rank = std::max(rank, tensor.shape[*axis]);
  }
  return rank;
}

}  // namespace

absl::StatusOr<UpdateTerms> UpdateTerms::Create(const CreateOptions& create, Options options) {
  UpdateTerms terms;
  const Layout& state = create.global->layout();
  WEFT_ASSIGN_OR_RETURN(terms.layout_, SentLayout(state, options.roles_sent, 0));
  if (options.mixed_ranks) {
    const int64_t largest = LargestRank(*terms.layout_);
    for (int64_t rank = 1; rank <= largest; ++rank) {
      WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> cut, SentLayout(state, options.roles_sent, rank));
      terms.cut_.push_back(std::move(cut));
    }
  }
  terms.binding_ = absl::StrCat(options.rule, " round=", create.round, " state=", state.hash());
  terms.options_ = std::move(options);
  return terms;
}

void UpdateTerms::FillPlan(proto::Plan* plan) const {
  plan->clear_roles_trained();
  plan->clear_roles_sent();
  for (const std::string& role : options_.roles_trained) plan->add_roles_trained(role);
  for (const std::string& role : options_.roles_sent) plan->add_roles_sent(role);
  plan->set_max_examples(options_.weights.by() == "uniform" ? 1 : options_.weights.max_examples());
}

absl::Status UpdateTerms::Check(const ClientUpdate& update) const {
  if (update.examples == 0 || update.examples > kAbsurdExamples) {
    return absl::InvalidArgumentError(absl::StrCat("examples: found ", update.examples, ", expected 1 to ",
                                                   kAbsurdExamples, "; send the rows the update was trained on"));
  }
  const std::shared_ptr<const Layout> expected = LayoutOf(update.rank);
  if (expected == nullptr) {
    const size_t ranks = cut_.size();
    return absl::InvalidArgumentError(
        ranks == 0 ? absl::StrCat("rank: found ", update.rank,
                                  " components, but this rule takes whole factors only; send all components")
                   : absl::StrCat("rank: found ", update.rank, ", expected 1 to ", ranks, ", or 0 for all"));
  }
  if (update.tensors.layout() == *expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("layout: found hash ", update.tensors.layout().hash(), ", expected ",
                                                 expected->hash(), "; send the tensors the plan asks for"));
}

std::shared_ptr<const Layout> UpdateTerms::LayoutOf(int64_t rank) const {
  if (rank == 0) return layout_;
  return rank > 0 && rank <= static_cast<int64_t>(cut_.size()) ? cut_[rank - 1] : nullptr;
}

uint64_t UpdateTerms::Weight(const ClientUpdate& update) const {
  if (options_.weights.by() == "uniform") return 1;
  return std::min(update.examples, static_cast<uint64_t>(options_.weights.max_examples()));
}

std::string RuleText(std::string_view name, const google::protobuf::Message& config) {
  return absl::StrCat(std::string(name), " {", config.ShortDebugString(), "}");
}

absl::Status CheckTotalWeight(const proto::JobConfig& job, const proto::WeightsConfig& weights) {
  if (weights.by() == "uniform" || !job.selection().has_clients()) return absl::OkStatus();
  const auto clients = static_cast<uint64_t>(job.selection().clients());
  const uint64_t largest = ExactSum::kMaxTotalWeight / std::max<uint64_t>(clients, 1);
  if (static_cast<uint64_t>(weights.max_examples()) <= largest) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "aggregator.config.weights.max_examples: found ", weights.max_examples(), ", expected at most ", largest,
      " with selection.clients = ", clients, ", so that the sum of weights fits; lower one of the two"));
}

absl::Status ForeignPart(const std::string& found, const std::string& expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("merge: found ", found, ", expected another part of ", expected, "; merge parts of one round"));
}

}  // namespace weft::aggregators
