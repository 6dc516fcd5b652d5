#ifndef WEFT_AGGREGATORS_CORE_FORM_CHECK_H_
#define WEFT_AGGREGATORS_CORE_FORM_CHECK_H_

// What rules that are made for one form of adapter ask of a job's.

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "adapters/layout.h"
#include "proto/job.pb.h"

namespace weft::aggregators {

// INVALID_ARGUMENT with the rules and the form that work when the layout has no LoRA factors, or one without its
// partner.
absl::Status CheckLoraFactors(std::string_view rule, const proto::JobConfig& job, const Layout& layout);

// AdapterRoles but for `left_out`.
std::vector<std::string> AdapterRolesWithout(const Layout& layout, std::string_view left_out);

// The layout's roles, for messages.
std::string RolesText(const Layout& layout);

}  // namespace weft::aggregators

#endif  // WEFT_AGGREGATORS_CORE_FORM_CHECK_H_
