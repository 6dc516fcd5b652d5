#include "client/offer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace weft {
namespace {

absl::Status CheckLabels(const proto::TaskConfig& task, const DataFolder& data) {
  const int expected = task.labels_size();
  const int found = static_cast<int>(data.labels().size());
  for (int i = 0; i < std::min(expected, found); ++i) {
    if (data.labels()[i] == task.labels(i)) continue;
    return absl::FailedPreconditionError(absl::StrCat("label ", i, " of this client's data is \"", data.labels()[i],
                                                      "\", expected \"", task.labels(i),
                                                      "\"; run `weft prepare` with the job's labels file"));
  }
  if (expected == found) return absl::OkStatus();
  const std::string first = expected > found
                                ? absl::StrCat("\"", task.labels(found), "\" is missing")
                                : absl::StrCat("\"", data.labels()[expected], "\" is not a label of the job");
  return absl::FailedPreconditionError(absl::StrCat("this client's data has ", found, " labels, expected ", expected,
                                                    " (", first, "); run `weft prepare` with the job's labels file"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Layout>> PrepareOffer(const proto::JobOffer& offer, const DataFolder& data,
                                                           Trainer* trainer, std::string* layout_hash) {
  if (offer.base_hash() != trainer->base_hash()) {
    return absl::FailedPreconditionError(absl::StrCat("this client holds base ", trainer->base_hash(), ", expected ",
                                                      offer.base_hash(),
                                                      "; point `base` at the folder the job was made for"));
  }
  if (offer.task().type() != data.task()) {
    return absl::FailedPreconditionError(absl::StrCat("this client's data is prepared for task ", data.task(),
                                                      ", expected ", offer.task().type(),
                                                      "; run `weft prepare` for that task"));
  }
  WEFT_RETURN_IF_ERROR(CheckLabels(offer.task(), data));
  WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Layout> layout, trainer->PrepareJob(offer));
  *layout_hash = layout->hash();
  if (layout->hash() != offer.layout_hash()) {
    return absl::FailedPreconditionError(absl::StrCat("the adapter lays out as ", layout->hash(), " here, expected ",
                                                      offer.layout_hash(),
                                                      "; run the same version of Weft on coordinator and client"));
  }
  return layout;
}

}  // namespace weft
