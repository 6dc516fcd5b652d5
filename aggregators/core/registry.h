#ifndef WEFT_AGGREGATORS_CORE_REGISTRY_H_
#define WEFT_AGGREGATORS_CORE_REGISTRY_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "aggregators/core/aggregator.h"

namespace weft::aggregators {

// Rules by plain name. An ordinary class; the process-wide one is filled by static registration (WEFT_REGISTER_RULE) in
// the rule's .cc file.
class Registry {
 public:
  static Registry& Global();

  // ALREADY_EXISTS when the name is taken.
  absl::Status Register(std::unique_ptr<Rule> rule);
  // INVALID_ARGUMENT that lists the known names.
  absl::StatusOr<const Rule*> Find(const std::string& name) const;
  std::vector<std::string> Names() const;

 private:
  std::map<std::string, std::unique_ptr<Rule>> rules_;
};

}  // namespace weft::aggregators

#define WEFT_REGISTER_RULE_CONCAT2(a, b) a##b
#define WEFT_REGISTER_RULE_CONCAT(a, b) WEFT_REGISTER_RULE_CONCAT2(a, b)
// At namespace scope of a rule's .cc file; the target needs alwayslink = True. A second rule of one name aborts at
// start.
#define WEFT_REGISTER_RULE(RuleClass)                                                                        \
  static const bool WEFT_REGISTER_RULE_CONCAT(weft_rule_registered_, __COUNTER__) = [] {                     \
    if (!::weft::aggregators::Registry::Global().Register(std::make_unique<RuleClass>()).ok()) std::abort(); \
    return true;                                                                                             \
  }()

#endif  // WEFT_AGGREGATORS_CORE_REGISTRY_H_
