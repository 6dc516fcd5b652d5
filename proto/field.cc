#include "proto/field.h"

#include <google/protobuf/duration.pb.h>
#include <google/protobuf/struct.pb.h>

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/time/time.h"

namespace weft::proto {
namespace {

using google::protobuf::Duration;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Sets a singular field or appends to a repeated one.
class Slot {
 public:
  Slot(Message* message, const FieldDescriptor* field) : message_(message), field_(field) {}

  void Put(int32_t v) { Repeated() ? R().AddInt32(message_, field_, v) : R().SetInt32(message_, field_, v); }
  void Put(int64_t v) { Repeated() ? R().AddInt64(message_, field_, v) : R().SetInt64(message_, field_, v); }
  void Put(uint32_t v) { Repeated() ? R().AddUInt32(message_, field_, v) : R().SetUInt32(message_, field_, v); }
  void Put(uint64_t v) { Repeated() ? R().AddUInt64(message_, field_, v) : R().SetUInt64(message_, field_, v); }
  void Put(double v) { Repeated() ? R().AddDouble(message_, field_, v) : R().SetDouble(message_, field_, v); }
  void Put(float v) { Repeated() ? R().AddFloat(message_, field_, v) : R().SetFloat(message_, field_, v); }
  void Put(bool v) { Repeated() ? R().AddBool(message_, field_, v) : R().SetBool(message_, field_, v); }
  void Put(const std::string& v) {
    Repeated() ? R().AddString(message_, field_, v) : R().SetString(message_, field_, v);
  }
  void PutEnum(int v) { Repeated() ? R().AddEnumValue(message_, field_, v) : R().SetEnumValue(message_, field_, v); }

 private:
  bool Repeated() const { return field_->is_repeated(); }
  const Reflection& R() const { return *message_->GetReflection(); }
  Message* message_;
  const FieldDescriptor* field_;
};

template <typename T>
bool PutInteger(const std::string& text, Slot slot) {
  T value;
  if (!absl::SimpleAtoi(text, &value)) return false;
  slot.Put(value);
  return true;
}

bool PutDouble(const std::string& text, Slot slot, bool as_float) {
  double value;
  if (!absl::SimpleAtod(text, &value)) return false;
  if (!std::isfinite(as_float ? static_cast<float>(value) : value)) return false;
  as_float ? slot.Put(static_cast<float>(value)) : slot.Put(value);
  return true;
}

bool PutDuration(const std::string& text, const FieldDescriptor& field, Message* message) {
  absl::Duration value;
  if (!absl::ParseDuration(text, &value)) return false;
  if (std::abs(absl::ToDoubleSeconds(value)) > kMaxDurationSeconds) return false;
  Duration duration;
  absl::Duration rest;
  duration.set_seconds(absl::IDivDuration(value, absl::Seconds(1), &rest));
  duration.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  SubMessage(message, field)->CopyFrom(duration);
  return true;
}

bool PutEnum(const std::string& text, const FieldDescriptor& field, Slot slot) {
  const auto* value = field.enum_type()->FindValueByName(absl::AsciiStrToUpper(text));
  if (value == nullptr) return false;
  slot.PutEnum(value->number());
  return true;
}

}  // namespace

bool IsDuration(const FieldDescriptor& field) { return field.message_type() == Duration::descriptor(); }

bool IsStruct(const FieldDescriptor& field) { return field.message_type() == google::protobuf::Struct::descriptor(); }

bool IsSection(const FieldDescriptor& field) {
  return field.message_type() != nullptr && field.message_type()->file()->package() != "google.protobuf";
}

std::string KindOf(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
      return "a whole number";
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      return "a whole number of 0 or more";
    case FieldDescriptor::CPPTYPE_DOUBLE:
    case FieldDescriptor::CPPTYPE_FLOAT:
      return "a finite number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_ENUM:
      return "a word the field knows";
    case FieldDescriptor::CPPTYPE_STRING:
      return "text";
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return IsDuration(field) ? "a duration such as 30s, 500ms, 2m or 1h" : "a mapping";
  }
  return "a value";
}

Message* SubMessage(Message* message, const FieldDescriptor& field) {
  const Reflection& reflection = *message->GetReflection();
  return field.is_repeated() ? reflection.AddMessage(message, &field) : reflection.MutableMessage(message, &field);
}

bool PutText(const std::string& text, const FieldDescriptor& field, Message* message) {
  Slot slot(message, &field);
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return PutInteger<int32_t>(text, slot);
    case FieldDescriptor::CPPTYPE_INT64:
      return PutInteger<int64_t>(text, slot);
    case FieldDescriptor::CPPTYPE_UINT32:
      return PutInteger<uint32_t>(text, slot);
    case FieldDescriptor::CPPTYPE_UINT64:
      return PutInteger<uint64_t>(text, slot);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return PutDouble(text, slot, /*as_float=*/false);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return PutDouble(text, slot, /*as_float=*/true);
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text != "true" && text != "false") return false;
      slot.Put(text == "true");
      return true;
    case FieldDescriptor::CPPTYPE_ENUM:
      return PutEnum(text, field, slot);
    case FieldDescriptor::CPPTYPE_STRING:
      slot.Put(text);
      return true;
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return IsDuration(field) && PutDuration(text, field, message);
  }
  return false;
}

}  // namespace weft::proto
