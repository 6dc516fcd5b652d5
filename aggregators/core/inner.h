#ifndef WEFT_AGGREGATORS_CORE_INNER_H_
#define WEFT_AGGREGATORS_CORE_INNER_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "aggregators/core/aggregator.h"
#include "aggregators/core/core.pb.h"

namespace weft::aggregators {

// The rule inside a wrapper, with the job it would run as if it stood alone.
struct Inner {
  const Rule* rule = nullptr;
  proto::JobConfig job;
};

// What a wrapper asks of the rule inside it.
enum class Need { kFinishFromMean, kCentralDp };

// Finds the inner rule, and checks that it fits: INVALID_ARGUMENT with the reason and the nearest rule that works when
// it is unknown or lacks what the wrapper needs. Its own CheckJob is the caller's to call, with `job`.
absl::StatusOr<Inner> FindInner(const proto::JobConfig& job, const proto::InnerRuleConfig& config,
                                std::string_view wrapper, Need need);

// The inner rule and its config as text, the same for the same config in any order of keys: for
// UpdateTerms::Options::rule of a wrapper.
std::string InnerText(const proto::InnerRuleConfig& config);

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_INNER_H_
