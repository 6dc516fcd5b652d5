#include "aggregators/core/form_check.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/factors.h"
#include "aggregators/core/state.h"
#include "common/status_macros.h"

namespace weft::aggregators {

absl::Status CheckLoraFactors(std::string_view rule, const proto::JobConfig& job, const Layout& layout) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<FactorPair> pairs, FactorPairs(layout));
  if (!pairs.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("aggregator.name: found ", std::string(rule), " with adapter.form ", job.adapter().form(),
                   ", whose tensors have roles ", RolesText(layout),
                   "; the rule needs LoRA factors (roles lora_a and lora_b): use adapter.form lora, or aggregator ",
                   "fedavg, which takes every form"));
}

std::vector<std::string> AdapterRolesWithout(const Layout& layout, std::string_view left_out) {
  std::vector<std::string> roles = AdapterRoles(layout);
  roles.erase(std::remove(roles.begin(), roles.end(), left_out), roles.end());
  return roles;
}

std::string RolesText(const Layout& layout) {
  std::set<std::string> roles;
  for (const TensorSpec& tensor : layout.tensors()) roles.insert(tensor.role);
  return absl::StrJoin(roles, ", ");
}

}  // namespace weft::aggregators
