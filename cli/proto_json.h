#ifndef WEFT_CLI_PROTO_JSON_H_
#define WEFT_CLI_PROTO_JSON_H_

#include <google/protobuf/message.h>

#include "nlohmann/json.hpp"

namespace weft::cli {

// A message as JSON for programs: every field under its snake_case name, in order; numbers as numbers, enums as
// lower-case words, durations in seconds, absent optional fields and messages as null.
nlohmann::ordered_json ToJson(const google::protobuf::Message& message);

}  // namespace weft::cli

#endif  // WEFT_CLI_PROTO_JSON_H_
