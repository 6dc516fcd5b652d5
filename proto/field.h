#ifndef WEFT_PROTO_FIELD_H_
#define WEFT_PROTO_FIELD_H_

// What schema.h and config/yaml.h both need to know of one field of a config message.

#include <google/protobuf/message.h>

#include <string>

namespace weft::proto {

// What google.protobuf.Duration may hold, either side of 0.
inline constexpr double kMaxDurationSeconds = 315'576'000'000;

bool IsDuration(const google::protobuf::FieldDescriptor& field);
bool IsStruct(const google::protobuf::FieldDescriptor& field);
// A message with a schema of its own, not one of protobuf's (Duration, Struct).
bool IsSection(const google::protobuf::FieldDescriptor& field);

// For messages: "a whole number", "a duration such as 30s, 500ms, 2m or 1h".
std::string KindOf(const google::protobuf::FieldDescriptor& field);

// The sub-message of a singular field, made when absent; a new last one of a repeated field.
google::protobuf::Message* SubMessage(google::protobuf::Message* message,
                                      const google::protobuf::FieldDescriptor& field);

// Sets a singular scalar or Duration field or appends to a repeated one; false, and nothing done, when `text` is none
// of its kind. NaN and infinities are no numbers here.
bool PutText(const std::string& text, const google::protobuf::FieldDescriptor& field,
             google::protobuf::Message* message);

}  // namespace weft::proto

#endif  // WEFT_PROTO_FIELD_H_
