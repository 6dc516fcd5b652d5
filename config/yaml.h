#ifndef WEFT_CONFIG_YAML_H_
#define WEFT_CONFIG_YAML_H_

#include <google/protobuf/message.h>

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace weft::config {

// Reads a YAML file onto a config message: one schema, the proto. Then applies `--set a.b=c` overrides in order,
// defaults and range checks (proto/schema.h). INVALID_ARGUMENT "file:line: key: found, expected, what to do" on an
// unknown key (with the nearest known one), a repeated key, a wrong kind, a value out of range, a missing required
// field, or YAML that does not parse; NOT_FOUND when the file is missing. Durations are written "30s", "500ms", "2m",
// "1h"; Struct fields take any mapping.
absl::Status LoadYaml(const std::string& path, const std::vector<std::string>& overrides,
                      google::protobuf::Message* message);

// The same from text; `name` stands for the file in messages.
absl::Status ParseYaml(const std::string& text, const std::string& name, const std::vector<std::string>& overrides,
                       google::protobuf::Message* message);

// One line for the log: the effective config as compact JSON.
std::string OneLine(const google::protobuf::Message& message);

}  // namespace weft::config

#endif  // WEFT_CONFIG_YAML_H_
