#include "adapters/forms/target_modules.h"

#include <algorithm>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"

namespace weft {
namespace {

bool Matches(const std::string& module, const std::string& target) {
  return module == target || module.ends_with(absl::StrCat(".", target));
}

bool IsNumber(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
}

// Each of these names the same module in every layer: what follows the layer number.
std::string Candidates(const std::vector<std::string>& modules) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const std::string& module : modules) {
    const std::vector<std::string> parts = absl::StrSplit(module, '.');
    const auto number = std::find_if(parts.rbegin(), parts.rend(), IsNumber).base();
    const auto first = number == parts.end() ? parts.begin() : number;
    const std::string name = absl::StrJoin(first, parts.end(), ".");
    if (seen.insert(name).second) names.push_back(name);
  }
  return absl::StrJoin(names, ", ");
}

bool Contains(const Targets& targets, const char* word) {
  return std::find(targets.begin(), targets.end(), word) != targets.end();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> MatchTargets(const std::vector<std::string>& modules, const Targets& targets,
                                                      const char* what) {
  for (const std::string& target : targets) {
    const bool known =
        std::any_of(modules.begin(), modules.end(), [&](const std::string& module) { return Matches(module, target); });
    if (known) continue;
    return absl::InvalidArgumentError(absl::StrCat("adapter.config.target_modules: \"", target, "\" matches no ", what,
                                                   " of the base; there are: ", Candidates(modules)));
  }
  std::vector<std::string> found;
  for (const std::string& module : modules) {
    const bool wanted =
        std::any_of(targets.begin(), targets.end(), [&](const std::string& target) { return Matches(module, target); });
    if (wanted) found.push_back(module);
  }
  return found;
}

absl::StatusOr<std::vector<LinearModule>> FindTargets(const BaseDescription& base, const Targets& targets) {
  if (Contains(targets, kAllLinear)) {
    if (targets.size() == 1) return base.linears;
    return absl::InvalidArgumentError(
        absl::StrCat("adapter.config.target_modules: found ", kAllLinear, " among others; use it alone"));
  }
  std::vector<std::string> names;
  for (const LinearModule& module : base.linears) names.push_back(module.name);
  WEFT_ASSIGN_OR_RETURN(const std::vector<std::string> matched, MatchTargets(names, targets, "linear module"));
  std::vector<LinearModule> found;
  for (const LinearModule& module : base.linears) {
    if (found.size() < matched.size() && matched[found.size()] == module.name) found.push_back(module);
  }
  return found;
}

std::string NameInTask(const BaseDescription& base, const TaskDescription& task, const std::string& name) {
  return task.prefixed ? name : std::string(absl::StripPrefix(name, base.prefix));
}

std::vector<std::string> PeftTargets(const BaseDescription& base, const TaskDescription& task, const Targets& targets) {
  std::vector<std::string> names;
  if (!Contains(targets, kAllLinear)) {
    for (const std::string& target : targets) names.push_back(NameInTask(base, task, target));
    return names;
  }
  // The last parts of all linears: no other module of a task's model but those of its head shares one.
  std::set<std::string> seen;
  for (const LinearModule& module : base.linears) {
    const std::string last = module.name.substr(module.name.rfind('.') + 1);
    if (seen.insert(last).second) names.push_back(last);
  }
  return names;
}

}  // namespace weft
