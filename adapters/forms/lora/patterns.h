#ifndef WEFT_ADAPTERS_FORMS_LORA_PATTERNS_H_
#define WEFT_ADAPTERS_FORMS_LORA_PATTERNS_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace re2 {
class RE2;
}

namespace weft {

// Values for modules by regular expressions over the last parts of their paths, as PEFT's rank_pattern and
// alpha_pattern: (.*\.)?(pattern)$ from the path's beginning. RE2 reads them, whose time is bounded whatever the
// pattern; so look-around and back-references are refused. Immutable.
class ModulePatterns {
 public:
  // `name` is the field's, for messages. INVALID_ARGUMENT: no regular expression.
  static absl::StatusOr<ModulePatterns> Create(std::string name, const std::map<std::string, double>& values);

  bool empty() const { return patterns_.empty(); }
  // nullopt: none matches.
  std::optional<double> Find(const std::string& module) const;
  // INVALID_ARGUMENT: a pattern that matches none of the modules; one module with two values (a mapping has no order
  // that could decide).
  absl::Status Check(const std::vector<std::string>& modules) const;
  // For adapter_config.json: the patterns, or, if they say otherwise of the names that PEFT sees, a value for each
  // name.
  nlohmann::json ForPeft(const std::vector<std::string>& modules, const std::vector<std::string>& peft_names) const;

 private:
  struct Pattern {
    std::string text;
    std::shared_ptr<const re2::RE2> regex;
    double value = 0;
  };
  std::string name_;
  std::vector<Pattern> patterns_;
};

// A pattern that matches this text alone.
std::string QuotedPattern(const std::string& text);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FORMS_LORA_PATTERNS_H_
