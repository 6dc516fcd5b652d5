#include "aggregators/core/registry.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace weft::aggregators {

Registry& Registry::Global() {
  // Never destroyed: static objects of other files may still use it at exit.
  static Registry& registry = *new Registry;
  return registry;
}

absl::Status Registry::Register(std::unique_ptr<Rule> rule) {
  std::string name(rule->name());
  const auto [it, is_new] = rules_.try_emplace(std::move(name), std::move(rule));
  if (is_new) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat("aggregator \"", it->first, "\" is registered twice; give one of the rules another name"));
}

absl::StatusOr<const Rule*> Registry::Find(const std::string& name) const {
  const auto it = rules_.find(name);
  if (it != rules_.end()) return it->second.get();
  const std::string known = absl::StrJoin(Names(), ", ");
  return absl::InvalidArgumentError(absl::StrCat(
      "aggregator.name: found \"", name, "\", expected one of: ", known.empty() ? "(none is linked in)" : known));
}

std::vector<std::string> Registry::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, rule] : rules_) names.push_back(name);
  return names;
}

}  // namespace weft::aggregators
