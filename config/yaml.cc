#include "config/yaml.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "proto/field.h"
#include "proto/schema.h"

namespace weft::config {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Struct;
using google::protobuf::Value;

constexpr int kMaxDepth = 64;  // of a Struct; an anchor that holds itself has no end

std::string Join(const std::string& path, const std::string& key) {
  return path.empty() ? key : absl::StrCat(path, ".", key);
}

// Quoted and block scalars are text whatever they look like.
bool IsText(const YAML::Node& node) { return node.Tag() == "!" || node.Tag() == "tag:yaml.org,2002:str"; }

std::string Describe(const YAML::Node& node) {
  if (node.IsMap()) return "a mapping";
  if (node.IsSequence()) return "a list";
  if (!node.IsScalar()) return "nothing";
  return absl::StrCat(IsText(node) ? "the text " : "", "\"", node.Scalar(), "\"");
}

// Puts YAML nodes into a message and remembers where each field was written, for what is found wrong later.
class Reader {
 public:
  explicit Reader(std::string name) : name_(std::move(name)) {}

  absl::Status ReadFileText(const std::string& text, Message* message);
  // `text` is "a.b=value".
  absl::Status ReadOverride(const std::string& text, Message* message);
  // Defaults and ranges.
  absl::Status Complete(Message* message) const;

 private:
  // The one document of `text`; an empty one is null.
  absl::StatusOr<YAML::Node> Parse(const std::string& text) const;
  std::string Place(const YAML::Mark& mark) const;
  absl::Status Refuse(const YAML::Node& at, const std::string& path, const std::string& found,
                      const std::string& expected) const;
  // The key as text, checked to be new in its mapping.
  absl::StatusOr<std::string> ReadKey(const YAML::Node& node, const std::string& path,
                                      std::set<std::string>* seen) const;
  absl::Status ReadSection(const YAML::Node& node, const std::string& path, Message* message);
  absl::Status ReadField(const YAML::Node& node, const std::string& path, const FieldDescriptor& field,
                         Message* message);
  absl::Status ReadValue(const YAML::Node& node, const std::string& path, const FieldDescriptor& field,
                         Message* message);
  absl::Status ReadScalar(const YAML::Node& node, const std::string& path, const FieldDescriptor& field,
                          Message* message) const;
  absl::Status ReadStruct(const YAML::Node& node, const std::string& path, int depth, Struct* to) const;
  absl::Status ReadFree(const YAML::Node& node, const std::string& path, int depth, Value* to) const;
  absl::Status ReadFreeScalar(const YAML::Node& node, const std::string& path, Value* to) const;
  // `keys` leads from `path` into a Struct.
  absl::Status OverrideStruct(std::vector<std::string> keys, std::string path, const YAML::Node& node,
                              Struct* to) const;

  const std::string name_;
  std::string override_;                       // the --set being read; empty in the file
  std::map<std::string, std::string> places_;  // of each field's path
};

std::string Reader::Place(const YAML::Mark& mark) const {
  if (!override_.empty()) return override_;
  return absl::StrCat(name_, ":", mark.is_null() ? 1 : mark.line + 1);
}

absl::Status Reader::Refuse(const YAML::Node& at, const std::string& path, const std::string& found,
                            const std::string& expected) const {
  return absl::InvalidArgumentError(
      absl::StrCat(Place(at.Mark()), ": ", path.empty() ? "" : path + ": ", "found ", found, ", expected ", expected));
}

absl::StatusOr<YAML::Node> Reader::Parse(const std::string& text) const {
  std::vector<YAML::Node> documents;
  try {
    documents = YAML::LoadAll(text);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(Place(error.mark), ": found no valid YAML (", error.msg,
                                                   "); check indentation, quotes and brackets there"));
  }
  if (documents.size() > 1) return Refuse(documents[1], "", "a second document", "one; remove the line ---");
  return documents.empty() ? YAML::Node() : documents[0];
}

absl::StatusOr<std::string> Reader::ReadKey(const YAML::Node& node, const std::string& path,
                                            std::set<std::string>* seen) const {
  if (!node.IsScalar()) return Refuse(node, path, absl::StrCat(Describe(node), " as a key"), "a name");
  if (seen->insert(node.Scalar()).second) return node.Scalar();
  return Refuse(node, Join(path, node.Scalar()), "the key a second time", "it once; remove one of them");
}

absl::Status Reader::ReadSection(const YAML::Node& node, const std::string& path, Message* message) {
  if (node.IsNull()) return absl::OkStatus();  // all of its keys are commented out
  if (!node.IsMap()) return Refuse(node, path, Describe(node), "a mapping of keys to values");
  std::set<std::string> seen;
  for (const auto& entry : node) {
    WEFT_ASSIGN_OR_RETURN(const std::string key, ReadKey(entry.first, path, &seen));
    const std::string place = Place(entry.first.Mark());
    const FieldDescriptor* field = nullptr;
    if (const absl::Status status = proto::FindField(*message, key, path, &field); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(place, ": ", status.message()));
    }
    places_[Join(path, key)] = place;
    WEFT_RETURN_IF_ERROR(ReadField(entry.second, Join(path, key), *field, message));
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadField(const YAML::Node& node, const std::string& path, const FieldDescriptor& field,
                               Message* message) {
  if (!field.is_repeated()) return ReadValue(node, path, field, message);
  if (!node.IsSequence()) return Refuse(node, path, Describe(node), "a list such as [a, b]");
  for (size_t i = 0; i < node.size(); ++i) {
    const std::string element = absl::StrCat(path, "[", i, "]");
    places_[element] = Place(node[i].Mark());
    WEFT_RETURN_IF_ERROR(ReadValue(node[i], element, field, message));
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadValue(const YAML::Node& node, const std::string& path, const FieldDescriptor& field,
                               Message* message) {
  if (proto::IsSection(field)) return ReadSection(node, path, proto::SubMessage(message, field));
  if (!proto::IsStruct(field)) return ReadScalar(node, path, field, message);
  Struct value;
  WEFT_RETURN_IF_ERROR(ReadStruct(node, path, 0, &value));
  proto::SubMessage(message, field)->CopyFrom(value);
  return absl::OkStatus();
}

absl::Status Reader::ReadScalar(const YAML::Node& node, const std::string& path, const FieldDescriptor& field,
                                Message* message) const {
  if (!node.IsScalar()) return Refuse(node, path, Describe(node), proto::KindOf(field));
  const bool takes_text = field.cpp_type() == FieldDescriptor::CPPTYPE_STRING ||
                          field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM || proto::IsDuration(field);
  if (IsText(node) && !takes_text) {
    return Refuse(node, path, Describe(node), absl::StrCat(proto::KindOf(field), " without quotes"));
  }
  if (proto::SetFromText(message, &field, node.Scalar()).ok()) return absl::OkStatus();
  return Refuse(node, path, Describe(node), proto::KindOf(field));
}

absl::Status Reader::ReadStruct(const YAML::Node& node, const std::string& path, int depth, Struct* to) const {
  if (node.IsNull()) return absl::OkStatus();
  if (!node.IsMap()) return Refuse(node, path, Describe(node), "a mapping of keys to values");
  std::set<std::string> seen;
  for (const auto& entry : node) {
    WEFT_ASSIGN_OR_RETURN(const std::string key, ReadKey(entry.first, path, &seen));
    WEFT_RETURN_IF_ERROR(ReadFree(entry.second, Join(path, key), depth + 1, &(*to->mutable_fields())[key]));
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadFree(const YAML::Node& node, const std::string& path, int depth, Value* to) const {
  if (depth > kMaxDepth) {
    return Refuse(node, path, absl::StrCat("more than ", kMaxDepth, " levels"), "fewer; is there an anchor in itself?");
  }
  if (node.IsMap()) return ReadStruct(node, path, depth, to->mutable_struct_value());
  if (node.IsScalar()) return ReadFreeScalar(node, path, to);
  if (!node.IsSequence()) {
    to->set_null_value(google::protobuf::NULL_VALUE);
    return absl::OkStatus();
  }
  auto& list = *to->mutable_list_value();
  for (size_t i = 0; i < node.size(); ++i) {
    WEFT_RETURN_IF_ERROR(ReadFree(node[i], absl::StrCat(path, "[", i, "]"), depth + 1, list.add_values()));
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadFreeScalar(const YAML::Node& node, const std::string& path, Value* to) const {
  const std::string& text = node.Scalar();
  double number;
  if (IsText(node)) {
    to->set_string_value(text);
  } else if (text == "true" || text == "false") {
    to->set_bool_value(text == "true");
  } else if (text.find_first_not_of("0123456789+-.eE") == std::string::npos && absl::SimpleAtod(text, &number)) {
    // A Struct holds doubles: a number that would come out as another one is refused here.
    const bool whole = text.find_first_of(".eE") == std::string::npos;
    if (!std::isfinite(number) || (whole && std::abs(number) >= 0x1p53)) {
      return Refuse(node, path, text, whole ? "a whole number below 2^53 in size" : "a number a double can hold");
    }
    to->set_number_value(number);
  } else {
    to->set_string_value(text);
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadFileText(const std::string& text, Message* message) {
  WEFT_ASSIGN_OR_RETURN(const YAML::Node root, Parse(text));
  places_[""] = Place(root.IsNull() ? YAML::Mark::null_mark() : root.Mark());
  return ReadSection(root, "", message);
}

absl::Status Reader::ReadOverride(const std::string& text, Message* message) {
  override_ = absl::StrCat("--set ", text);
  const size_t equals = text.find('=');
  std::vector<std::string> keys = absl::StrSplit(text.substr(0, equals), '.');
  if (equals == std::string::npos || std::find(keys.begin(), keys.end(), "") != keys.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(override_, ": expected key=value, the keys of sections joined by dots, such as stop.rounds=3"));
  }
  WEFT_ASSIGN_OR_RETURN(const YAML::Node node, Parse(text.substr(equals + 1)));
  std::string path;
  for (size_t i = 0;; ++i) {
    const FieldDescriptor* field = nullptr;
    if (const absl::Status status = proto::FindField(*message, keys[i], path, &field); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(override_, ": ", status.message()));
    }
    path = Join(path, keys[i]);
    if (i + 1 == keys.size()) {
      std::erase_if(places_, [&path](const auto& at) {
        return absl::StartsWith(at.first, path + ".") || absl::StartsWith(at.first, path + "[");
      });
      places_[path] = override_;
      message->GetReflection()->ClearField(message, field);
      return ReadField(node, path, *field, message);
    }
    const bool inside = !field->is_repeated() && (proto::IsSection(*field) || proto::IsStruct(*field));
    if (!inside)
      return Refuse(node, path, absl::StrCat("the key ", keys[i + 1], " below it"), "none: it is no section");
    message = proto::SubMessage(message, *field);
    if (!proto::IsStruct(*field)) continue;
    keys.erase(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    // Config messages are generated classes, so this is a Struct by type.
    return OverrideStruct(keys, path, node, static_cast<Struct*>(message));
  }
}

absl::Status Reader::OverrideStruct(std::vector<std::string> keys, std::string path, const YAML::Node& node,
                                    Struct* to) const {
  const std::string last = keys.back();
  keys.pop_back();
  for (const std::string& key : keys) {
    Value& value = (*to->mutable_fields())[key];
    path = Join(path, key);
    if (value.kind_case() != Value::KIND_NOT_SET && !value.has_struct_value() && !value.has_null_value()) {
      return Refuse(node, path, "a value that is no mapping", "a mapping to set a key in; set it whole");
    }
    to = value.mutable_struct_value();
  }
  Value value;
  WEFT_RETURN_IF_ERROR(ReadFree(node, Join(path, last), 1, &value));
  (*to->mutable_fields())[last] = std::move(value);
  return absl::OkStatus();
}

absl::Status Reader::Complete(Message* message) const {
  proto::ApplyDefaults(message);
  const absl::Status status = proto::Validate(*message);
  if (status.ok()) return status;
  // The message starts with the path. What was not written is missing in the section around it.
  std::string path(status.message().substr(0, status.message().find(": ")));
  while (!places_.contains(path))
    path.resize(path.find_last_of(".[") == std::string::npos ? 0 : path.find_last_of(".["));
  return absl::InvalidArgumentError(absl::StrCat(places_.at(path), ": ", status.message()));
}

}  // namespace

absl::Status ParseYaml(const std::string& text, const std::string& name, const std::vector<std::string>& overrides,
                       Message* message) {
  Reader reader(name);
  WEFT_RETURN_IF_ERROR(reader.ReadFileText(text, message));
  for (const std::string& override_text : overrides) {
    WEFT_RETURN_IF_ERROR(reader.ReadOverride(override_text, message));
  }
  return reader.Complete(message);
}

absl::Status LoadYaml(const std::string& path, const std::vector<std::string>& overrides, Message* message) {
  WEFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return ParseYaml(text, path, overrides, message);
}

std::string OneLine(const Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  return status.ok() ? json : absl::StrCat("\"", status.ToString(), "\"");
}

}  // namespace weft::config
