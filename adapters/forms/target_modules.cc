#include "adapters/forms/target_modules.h"

#include <algorithm>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace weft {
namespace {

bool Matches(const std::string& module, const std::string& target) {
  return module == target || module.ends_with(absl::StrCat(".", target));
}

bool IsNumber(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
}

// Each of these names the same module in every layer: what follows the layer number.
std::string Candidates(const BaseDescription& base) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const LinearModule& module : base.linears) {
    const std::vector<std::string> parts = absl::StrSplit(module.name, '.');
    const auto number = std::find_if(parts.rbegin(), parts.rend(), IsNumber).base();
    const auto first = number == parts.end() ? parts.begin() : number;
    const std::string name = absl::StrJoin(first, parts.end(), ".");
    if (seen.insert(name).second) names.push_back(name);
  }
  return absl::StrJoin(names, ", ");
}

}  // namespace

absl::StatusOr<std::vector<LinearModule>> FindTargets(const BaseDescription& base,
                                                      const google::protobuf::RepeatedPtrField<std::string>& targets) {
  for (const std::string& target : targets) {
    const bool known = std::any_of(base.linears.begin(), base.linears.end(),
                                   [&](const LinearModule& module) { return Matches(module.name, target); });
    if (known) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("adapter.config.target_modules: \"", target,
                     "\" matches no linear module of the base; there are: ", Candidates(base)));
  }
  std::vector<LinearModule> found;
  for (const LinearModule& module : base.linears) {
    const bool wanted = std::any_of(targets.begin(), targets.end(),
                                    [&](const std::string& target) { return Matches(module.name, target); });
    if (wanted) found.push_back(module);
  }
  return found;
}

}  // namespace weft
