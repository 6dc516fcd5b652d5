#include "adapters/forms/lora/patterns.h"

#include <re2/re2.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "adapters/forms/peft_fields.h"

namespace weft {

absl::StatusOr<ModulePatterns> ModulePatterns::Create(std::string name, const std::map<std::string, double>& values) {
  ModulePatterns patterns;
  patterns.name_ = std::move(name);
  for (const auto& [text, value] : values) {
    auto regex = std::make_shared<const re2::RE2>(absl::StrCat("(.*\\.)?(", text, ")$"), re2::RE2::Quiet);
    if (!regex->ok()) {
      return absl::InvalidArgumentError(absl::StrCat("adapter.config.", patterns.name_, ": \"", text,
                                                     "\" is no regular expression (", regex->error(),
                                                     "); expected one for the last parts of a module's path"));
    }
    patterns.patterns_.push_back({text, std::move(regex), value});
  }
  return patterns;
}

std::optional<double> ModulePatterns::Find(const std::string& module) const {
  for (const Pattern& pattern : patterns_) {
    if (re2::RE2::FullMatch(module, *pattern.regex)) return pattern.value;
  }
  return std::nullopt;
}

absl::Status ModulePatterns::Check(const std::vector<std::string>& modules) const {
  std::map<std::string, const Pattern*> first;
  for (const Pattern& pattern : patterns_) {
    bool any = false;
    for (const std::string& module : modules) {
      if (!re2::RE2::FullMatch(module, *pattern.regex)) continue;
      any = true;
      const Pattern* other = first.emplace(module, &pattern).first->second;
      if (other->value == pattern.value) continue;
      return absl::InvalidArgumentError(absl::StrCat("adapter.config.", name_, ": module ", module, " is matched by \"",
                                                     other->text, "\" (", other->value, ") and \"", pattern.text,
                                                     "\" (", pattern.value, "); write patterns that do not overlap"));
    }
    if (any) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("adapter.config.", name_, ": \"", pattern.text, "\" matches none of the ", modules.size(),
                     " target modules (", modules.empty() ? "" : modules.front(), ", ...); remove it or mend it"));
  }
  return absl::OkStatus();
}

nlohmann::json ModulePatterns::ForPeft(const std::vector<std::string>& modules,
                                       const std::vector<std::string>& peft_names) const {
  bool same = true;
  for (size_t i = 0; i < modules.size(); ++i) same = same && Find(modules[i]) == Find(peft_names[i]);
  nlohmann::json json = nlohmann::json::object();
  if (same) {
    for (const Pattern& pattern : patterns_) json[pattern.text] = PeftNumber(pattern.value);
    return json;
  }
  for (size_t i = 0; i < modules.size(); ++i) {
    const std::optional<double> value = Find(modules[i]);
    if (value.has_value()) json[QuotedPattern(peft_names[i])] = PeftNumber(*value);
  }
  return json;
}

std::string QuotedPattern(const std::string& text) { return absl::StrReplaceAll(text, {{".", "\\."}}); }

}  // namespace weft
