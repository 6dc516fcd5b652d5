#include "proto/schema.h"

#include <google/protobuf/duration.pb.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "proto/field.h"
#include "proto/schema_options.pb.h"

namespace weft::proto {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::Duration;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using google::protobuf::Struct;
using google::protobuf::Value;

const FieldSchema& SchemaOf(const FieldDescriptor& field) { return field.options().GetExtension(schema); }

std::string Join(std::string_view path, const std::string& name) {
  return path.empty() ? name : absl::StrCat(absl::string_view(path.data(), path.size()), ".", name);
}

std::string Quoted(const std::string& text) { return absl::StrCat("\"", text, "\""); }

absl::Status Refused(const std::string& path, const std::string& found, const std::string& expected) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": found ", found, ", expected ", expected));
}

// Levenshtein distance, to name what a misspelt word was meant to be.
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, changed});
    }
  }
  return row.back();
}

// "one of a, b, c; did you mean "b"?"
std::string OneOf(const std::vector<std::string>& known, const std::string& found) {
  if (known.empty()) return "none here; remove it";
  const auto nearest = std::min_element(known.begin(), known.end(), [&found](const auto& a, const auto& b) {
    return EditDistance(a, found) < EditDistance(b, found);
  });
  return absl::StrCat("one of ", absl::StrJoin(known, ", "), "; did you mean ", Quoted(*nearest), "?");
}

// "a value above 0 and at most 1"; the schema has a bound.
std::string RangeText(const FieldSchema& schema, const char* unit) {
  std::vector<std::string> parts;
  if (!schema.above().empty()) parts.push_back(absl::StrCat("above ", schema.above()));
  if (!schema.min().empty()) parts.push_back(absl::StrCat("at least ", schema.min()));
  if (!schema.max().empty()) parts.push_back(absl::StrCat("at most ", schema.max()));
  return absl::StrCat("a value ", absl::StrJoin(parts, " and "), unit);
}

// Bounds are small enough to be exact as doubles, and rounding `value` to one keeps its order against them.
bool InRange(const FieldSchema& schema, double value) {
  const auto bound = [](const std::string& text) -> std::optional<double> {
    double number;
    return absl::SimpleAtod(text, &number) ? std::optional<double>(number) : std::nullopt;
  };
  const auto above = bound(schema.above()), min = bound(schema.min()), max = bound(schema.max());
  return !(above && value <= *above) && !(min && value < *min) && !(max && value > *max);
}

absl::Status CheckNumber(const FieldSchema& schema, const std::string& path, double value, const std::string& text) {
  if (!std::isfinite(value)) return Refused(path, text, "a finite number");
  if (InRange(schema, value)) return absl::OkStatus();
  return Refused(path, text, RangeText(schema, ""));
}

absl::Status CheckDuration(const FieldSchema& schema, const std::string& path, const Message& message) {
  Duration value;
  value.CopyFrom(message);
  const double seconds = static_cast<double>(value.seconds()) + value.nanos() * 1e-9;
  const bool one_sign = (value.seconds() >= 0 || value.nanos() <= 0) && (value.seconds() <= 0 || value.nanos() >= 0);
  if (!one_sign || std::abs(value.nanos()) > 999'999'999 || std::abs(seconds) > kMaxDurationSeconds) {
    return Refused(
        path, absl::StrCat(value.seconds(), " seconds and ", value.nanos(), " nanoseconds"),
        "a duration of less than 10000 years whose nanoseconds are below 1e9 and of the sign of the seconds");
  }
  if (InRange(schema, seconds)) return absl::OkStatus();
  return Refused(path, absl::StrCat(seconds, "s"), RangeText(schema, " seconds"));
}

absl::Status CheckWord(const FieldSchema& schema, const std::string& path, const std::string& word) {
  const std::vector<std::string> known(schema.one_of().begin(), schema.one_of().end());
  if (known.empty() || std::find(known.begin(), known.end(), word) != known.end()) return absl::OkStatus();
  return Refused(path, Quoted(word), OneOf(known, word));
}

// One entry of a mapping of text to numbers; the field's bounds are those of each number.
absl::Status CheckEntry(const Message& entry, const FieldSchema& schema, const std::string& path) {
  const Reflection& r = *entry.GetReflection();
  const FieldDescriptor& key = *entry.GetDescriptor()->map_key();
  const FieldDescriptor& value = *entry.GetDescriptor()->map_value();
  const std::string place = absl::StrCat(path, "[", Quoted(r.GetString(entry, &key)), "]");
  if (value.cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
    const int64_t number = r.GetInt64(entry, &value);
    return CheckNumber(schema, place, static_cast<double>(number), absl::StrCat(number));
  }
  const double number = r.GetDouble(entry, &value);
  return CheckNumber(schema, place, number, absl::StrCat(number));
}

// One value of a field: `index` -1 for a singular one.
absl::Status CheckValue(const Message& message, const FieldDescriptor& field, int index, const std::string& path) {
  const Reflection& r = *message.GetReflection();
  const FieldSchema& schema = SchemaOf(field);
  const bool repeated = index >= 0;
  const auto number = [&](auto value) {
    return CheckNumber(schema, path, static_cast<double>(value), absl::StrCat(value));
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return number(repeated ? r.GetRepeatedInt32(message, &field, index) : r.GetInt32(message, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return number(repeated ? r.GetRepeatedInt64(message, &field, index) : r.GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return number(repeated ? r.GetRepeatedUInt32(message, &field, index) : r.GetUInt32(message, &field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return number(repeated ? r.GetRepeatedUInt64(message, &field, index) : r.GetUInt64(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return number(repeated ? r.GetRepeatedDouble(message, &field, index) : r.GetDouble(message, &field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return number(repeated ? r.GetRepeatedFloat(message, &field, index) : r.GetFloat(message, &field));
    case FieldDescriptor::CPPTYPE_STRING:
      return CheckWord(schema, path,
                       repeated ? r.GetRepeatedString(message, &field, index) : r.GetString(message, &field));
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      const Message& sub = repeated ? r.GetRepeatedMessage(message, &field, index) : r.GetMessage(message, &field);
      if (IsDuration(field)) return CheckDuration(schema, path, sub);
      return IsSection(field) ? Validate(sub, path) : absl::OkStatus();
    }
    default:
      return absl::OkStatus();
  }
}

absl::Status CheckField(const Message& message, const FieldDescriptor& field, const std::string& path) {
  const Reflection& reflection = *message.GetReflection();
  if (field.is_map()) {
    for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
      absl::Status status = CheckEntry(reflection.GetRepeatedMessage(message, &field, i), SchemaOf(field), path);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  const int count = field.is_repeated() ? reflection.FieldSize(message, &field) : 0;
  bool given = field.is_repeated() ? count > 0 : reflection.HasField(message, &field);
  // Defaults create the section itself, so that it was given shows only by what is in it.
  if (given && !field.is_repeated() && IsSection(field)) {
    given = reflection.GetMessage(message, &field).ByteSizeLong() > 0;
  }
  if (SchemaOf(field).required() && !given) {
    return Refused(path, "nothing", field.is_repeated() ? "at least one value; add it" : "a value; add it");
  }
  for (int i = 0; i < count; ++i) {
    absl::Status status = CheckValue(message, field, i, absl::StrCat(path, "[", i, "]"));
    if (!status.ok()) return status;
  }
  return field.is_repeated() || !reflection.HasField(message, &field) ? absl::OkStatus()
                                                                      : CheckValue(message, field, -1, path);
}

std::string Describe(const Value& value) {
  switch (value.kind_case()) {
    case Value::kNumberValue:
      return absl::StrCat(value.number_value());
    case Value::kStringValue:
      return absl::StrCat("the text ", Quoted(value.string_value()));
    case Value::kBoolValue:
      return value.bool_value() ? "true" : "false";
    case Value::kStructValue:
      return "a mapping";
    case Value::kListValue:
      return "a list";
    default:
      return "nothing";
  }
}

// The text SetFromText takes for a Value of the field's kind; nullopt for another kind.
std::optional<std::string> TextOf(const Value& value, const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      if (!value.has_bool_value()) return std::nullopt;
      return value.bool_value() ? "true" : "false";
    case FieldDescriptor::CPPTYPE_STRING:
    case FieldDescriptor::CPPTYPE_ENUM:
    case FieldDescriptor::CPPTYPE_MESSAGE:
      if (!value.has_string_value()) return std::nullopt;
      return value.string_value();
    case FieldDescriptor::CPPTYPE_DOUBLE:
    case FieldDescriptor::CPPTYPE_FLOAT:
      if (!value.has_number_value()) return std::nullopt;
      return absl::StrFormat("%.17g", value.number_value());
    default:  // whole numbers, which a Value holds as doubles: exact up to 2^53
      if (!value.has_number_value()) return std::nullopt;
      if (std::trunc(value.number_value()) != value.number_value()) return std::nullopt;
      if (std::abs(value.number_value()) > 0x1p53) return std::nullopt;
      return absl::StrCat(static_cast<int64_t>(value.number_value()));
  }
}

absl::Status FillFromStruct(const Struct& from, const std::string& path, Message* to);

absl::Status PutValue(const Value& value, const FieldDescriptor& field, const std::string& path, Message* to) {
  if (IsSection(field) || IsStruct(field)) {
    if (!value.has_struct_value()) return Refused(path, Describe(value), "a mapping");
    if (IsSection(field)) return FillFromStruct(value.struct_value(), path, SubMessage(to, field));
    SubMessage(to, field)->CopyFrom(value.struct_value());
    return absl::OkStatus();
  }
  const std::optional<std::string> text = TextOf(value, field);
  if (!text.has_value() || !PutText(*text, field, to)) return Refused(path, Describe(value), KindOf(field));
  return absl::OkStatus();
}

absl::Status PutList(const Value& value, const FieldDescriptor& field, const std::string& path, Message* to) {
  if (!value.has_list_value()) return Refused(path, Describe(value), "a list");
  for (int i = 0; i < value.list_value().values_size(); ++i) {
    absl::Status status = PutValue(value.list_value().values(i), field, absl::StrCat(path, "[", i, "]"), to);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

std::vector<std::string> SortedKeys(const Struct& from) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : from.fields()) keys.push_back(key);
  std::sort(keys.begin(), keys.end());  // the same message for the same mistakes
  return keys;
}

absl::Status PutMap(const Value& value, const FieldDescriptor& field, const std::string& path, Message* to) {
  if (!value.has_struct_value()) return Refused(path, Describe(value), "a mapping");
  for (const std::string& key : SortedKeys(value.struct_value())) {
    Message* entry = to->GetReflection()->AddMessage(to, &field);
    entry->GetReflection()->SetString(entry, entry->GetDescriptor()->map_key(), key);
    absl::Status status = PutValue(value.struct_value().fields().at(key), *entry->GetDescriptor()->map_value(),
                                   absl::StrCat(path, "[", Quoted(key), "]"), entry);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status FillFromStruct(const Struct& from, const std::string& path, Message* to) {
  for (const std::string& key : SortedKeys(from)) {
    const FieldDescriptor* field = nullptr;
    absl::Status status = FindField(*to, key, path, &field);
    if (!status.ok()) return status;
    const Value& value = from.fields().at(key);
    const auto put = field->is_map() ? PutMap : field->is_repeated() ? PutList : PutValue;
    status = put(value, *field, Join(path, key), to);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

void ApplyDefaults(Message* message) {
  const Descriptor& descriptor = *message->GetDescriptor();
  const Reflection& reflection = *message->GetReflection();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor* field = descriptor.field(i);
    const std::string& text = SchemaOf(*field).default_value();
    if (field->is_repeated()) {
      if (IsSection(*field) && !field->is_map()) {
        for (int j = 0; j < reflection.FieldSize(*message, field); ++j) {
          ApplyDefaults(reflection.MutableRepeatedMessage(message, field, j));
        }
      } else if (!text.empty() && reflection.FieldSize(*message, field) == 0) {
        PutText(text, *field, message);
      }
      continue;
    }
    // Of a oneof the giver chooses one; the others stay absent.
    if (field->real_containing_oneof() != nullptr && !reflection.HasField(*message, field)) continue;
    if (IsSection(*field)) {
      ApplyDefaults(reflection.MutableMessage(message, field));
    } else if (!text.empty() && !reflection.HasField(*message, field)) {
      PutText(text, *field, message);
    }
  }
}

absl::Status Validate(const Message& message, std::string_view path_prefix) {
  const Descriptor& descriptor = *message.GetDescriptor();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    absl::Status status = CheckField(message, field, Join(path_prefix, field.name()));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status SetFromText(Message* message, const FieldDescriptor* field, const std::string& text) {
  if (PutText(text, *field, message)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is not ", KindOf(*field)));
}

absl::Status FindField(const Message& message, const std::string& name, const std::string& path,
                       const FieldDescriptor** field) {
  const Descriptor& descriptor = *message.GetDescriptor();
  *field = descriptor.FindFieldByName(name);
  if (*field != nullptr) return absl::OkStatus();
  std::vector<std::string> known;
  for (int i = 0; i < descriptor.field_count(); ++i) known.push_back(descriptor.field(i)->name());
  return Refused(Join(path, name), "an unknown key", OneOf(known, name));
}

absl::Status FromStruct(const Struct& from, std::string_view path, Message* to) {
  to->Clear();
  absl::Status status = FillFromStruct(from, std::string(path), to);
  if (!status.ok()) return status;
  ApplyDefaults(to);
  return Validate(*to, path);
}

}  // namespace weft::proto
