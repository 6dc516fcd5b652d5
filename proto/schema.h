#ifndef WEFT_PROTO_SCHEMA_H_
#define WEFT_PROTO_SCHEMA_H_

// Applies the (weft.proto.schema) field options of config messages: defaults, required fields, ranges, allowed words.
// Works on any message through reflection, so a new config field needs no code here.

#include <google/protobuf/message.h>
#include <google/protobuf/struct.pb.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace weft::proto {

// Protocol spoken over proto/service.proto; both ends must have the same.
inline constexpr uint32_t kProtocolVersion = 3;

// Fills every absent field that has a default, recursively. Sub-messages of singular message fields are created, so
// that their defaults apply too (Struct and Duration fields without a default stay absent).
void ApplyDefaults(google::protobuf::Message* message);

// INVALID_ARGUMENT naming the field path ("training.batch_size"), the value found and what is expected;
// the message starts with that path and ": ". `path_prefix` is put before. A required section needs at least one field.
absl::Status Validate(const google::protobuf::Message& message, std::string_view path_prefix = "");

// Sets one scalar, Duration or enum-like field from its YAML text; repeated fields are appended to.
// INVALID_ARGUMENT: "<text> is not a <kind>".
absl::Status SetFromText(google::protobuf::Message* message, const google::protobuf::FieldDescriptor* field,
                         const std::string& text);

// The field of `message` called `name`, or INVALID_ARGUMENT that lists the known names and the nearest one.
absl::Status FindField(const google::protobuf::Message& message, const std::string& name, const std::string& path,
                       const google::protobuf::FieldDescriptor** field);

// Strict Struct -> message for the config of a form or a rule: unknown keys and wrong kinds are refused, defaults are
// applied, ranges checked. `path` is the place in the job, for messages ("aggregator.config").
absl::Status FromStruct(const google::protobuf::Struct& from, std::string_view path, google::protobuf::Message* to);

}  // namespace weft::proto

#endif  // WEFT_PROTO_SCHEMA_H_
