#ifndef WEFT_ADAPTERS_FORMS_PEFT_FIELDS_H_
#define WEFT_ADAPTERS_FORMS_PEFT_FIELDS_H_

// Fields of an adapter_config.json, for forms that read them into their own config.

#include <google/protobuf/struct.pb.h>

#include <set>
#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace weft {

// INVALID_ARGUMENT naming the key and its value.
absl::Status RefusedField(const std::string& key, const nlohmann::json& value, const std::string& why);

// Everything that can be switched on would make the tensors mean something else, now or in versions of PEFT to come: so
// `harmless` are the fields that a form reads or may pass over, and all others must be off.
absl::Status CheckOthersOff(const nlohmann::json& peft_config, const std::set<std::string>& harmless);

// Each of these puts peft_config[theirs] into config[ours]. INVALID_ARGUMENT: missing or of another kind.
absl::Status CopyNumber(const nlohmann::json& peft_config, const char* theirs, const char* ours,
                        google::protobuf::Struct* config);
// A list of names, in any order (PEFT writes a set), or the text "all-linear".
absl::Status CopyTargets(const nlohmann::json& peft_config, google::protobuf::Struct* config);
// A mapping of names to numbers, or null.
absl::Status CopyPattern(const nlohmann::json& peft_config, const char* name, google::protobuf::Struct* config);

// A whole number is written as one: PEFT declares some fields as integers, though a fraction loads as well.
nlohmann::json PeftNumber(double value);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FORMS_PEFT_FIELDS_H_
