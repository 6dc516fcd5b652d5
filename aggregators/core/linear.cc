#include "aggregators/core/linear.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "aggregators/core/state.h"
#include "common/status_macros.h"

namespace weft::aggregators {

LinearAggregator::LinearAggregator(const CreateOptions& create, UpdateTerms terms)
    : state_(*create.global), terms_(std::move(terms)), threads_(create.threads), sum_(terms_.layout()) {}

absl::Status LinearAggregator::Validate(const ClientUpdate& update) const {
  WEFT_RETURN_IF_ERROR(terms_.Check(update));
  return sum_.Check(update.tensors, terms_.Weight(update));
}

absl::Status LinearAggregator::Accumulate(std::span<const ClientUpdate> updates) {
  std::vector<const EncodedUpdate*> tensors;
  std::vector<uint64_t> weights;
  uint64_t together = 0;
  for (const ClientUpdate& update : updates) {
    WEFT_RETURN_IF_ERROR(Validate(update));
    tensors.push_back(&update.tensors);
    weights.push_back(terms_.Weight(update));
    together += weights.back();
  }
  // Each fits by itself; all must fit together.
  if (together > ExactSum::kMaxTotalWeight - sum_.total_weight()) {
    return absl::InvalidArgumentError(absl::StrCat("weight: found ", together, " on top of ", sum_.total_weight(),
                                                   ", expected a total of at most ", ExactSum::kMaxTotalWeight,
                                                   "; lower the bound on the weight of one client"));
  }
  sum_.AddChecked(tensors, weights, threads_);
  return absl::OkStatus();
}

absl::Status LinearAggregator::MergeWith(Aggregator&& other) {
  auto* const part = dynamic_cast<LinearAggregator*>(&other);
  if (part == nullptr) return ForeignPart("another rule", terms_.binding());
  if (part == this) return ForeignPart("the sum itself", terms_.binding());
  if (part->terms_.binding() != terms_.binding()) return ForeignPart(part->terms_.binding(), terms_.binding());
  return sum_.Merge(part->sum_);
}

absl::StatusOr<Adapter> LinearAggregator::Finish() && {
  WEFT_ASSIGN_OR_RETURN(const Adapter mean, sum_.Mean(threads_));
  return Next(mean, sum_.updates());
}

absl::StatusOr<Adapter> LinearAggregator::Next(const Adapter& mean, int64_t) { return Plus(state_, mean); }

absl::StatusOr<std::string> LinearAggregator::Save() const { return sum_.Save(terms_.binding()); }

absl::Status LinearAggregator::Restore(std::string_view state) { return sum_.Restore(terms_.binding(), state); }

}  // namespace weft::aggregators
