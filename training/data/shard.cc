#include "training/data/shard.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace weft {
namespace {

using Json = nlohmann::json;

// One tensor of a split as typed values, or why the file cannot be a split.
template <typename T>
absl::StatusOr<std::span<const T>> ReadColumn(const SafetensorsFile& file, const std::string& path,
                                              const std::string& name, absl::string_view dtype, size_t dimensions = 1) {
  WEFT_ASSIGN_OR_RETURN(const SafetensorView view, file.Find(name));
  if (view.dtype != dtype || view.shape.size() != dimensions) {
    return absl::DataLossError(absl::StrCat(path, ": tensor ", name, " has dtype ", view.dtype, " and ",
                                            view.shape.size(), " dimensions, expected ", dtype, " and ", dimensions,
                                            "; run `weft prepare` again"));
  }
  if (reinterpret_cast<uintptr_t>(view.data.data()) % alignof(T) != 0) {
    return absl::DataLossError(absl::StrCat(path, ": tensor ", name, " does not start at a multiple of ", alignof(T),
                                            " bytes; run `weft prepare` again"));
  }
  return std::span<const T>(reinterpret_cast<const T*>(view.data.data()), view.data.size() / sizeof(T));
}

absl::Status CheckOffsets(const std::string& path, std::span<const int64_t> offsets, size_t tokens) {
  if (offsets.empty() || offsets.front() != 0 || offsets.back() != static_cast<int64_t>(tokens)) {
    return absl::DataLossError(
        absl::StrCat(path, ": row_offsets must run from 0 to the ", tokens, " tokens of input_ids, found ",
                     offsets.empty() ? "none" : absl::StrCat(offsets.front(), " to ", offsets.back())));
  }
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    if (offsets[i + 1] < offsets[i]) {
      return absl::DataLossError(
          absl::StrCat(path, ": row_offsets descend at row ", i, ": ", offsets[i], " then ", offsets[i + 1]));
    }
  }
  return absl::OkStatus();
}

absl::Status Malformed(const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", why, "; run `weft prepare` again"));
}

// The member of a manifest object, or what it should have been.
template <typename T>
absl::StatusOr<T> Member(const std::string& path, const Json& object, const std::string& name,
                         bool (Json::*is_kind)() const, absl::string_view kind) {
  const auto found = object.find(name);
  if (found == object.end() || !((*found).*is_kind)()) {
    return Malformed(path, absl::StrCat("\"", name, "\" must be ", kind));
  }
  return found->get<T>();
}

absl::StatusOr<Json> ReadManifest(const std::string& folder, const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(absl::StrCat(folder, ": no manifest.json there; make the folder with `weft prepare`"));
  }
  WEFT_RETURN_IF_ERROR(text.status());
  Json manifest = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!manifest.is_object()) return Malformed(path, "not a JSON object");
  if (manifest.value("format", Json()) != "weft-data" || manifest.value("version", Json()) != 1) {
    return Malformed(path, "expected \"format\": \"weft-data\" and \"version\": 1");
  }
  return manifest;
}

// The kinds of rows that a task reads; empty for a task that there is not.
std::vector<RowKind> KindsOf(const std::string& task) {
  if (task == "sequence_classification") return {RowKind::kText, RowKind::kFeatures};
  if (task == "image_classification") return {RowKind::kImages, RowKind::kFeatures};
  if (task == "causal_lm") return {RowKind::kLearn};
  if (task == "sentence_embedding") return {RowKind::kPairs};
  return {};
}

bool HasLabels(RowKind kind) { return kind != RowKind::kLearn && kind != RowKind::kPairs; }

absl::StatusOr<std::string> ReadTask(const std::string& path, const Json& manifest) {
  WEFT_ASSIGN_OR_RETURN(std::string task, Member<std::string>(path, manifest, "task", &Json::is_string, "a name"));
  if (!KindsOf(task).empty()) return task;
  return Malformed(path, absl::StrCat("task \"", task,
                                      "\" is none of sequence_classification, image_classification, "
                                      "causal_lm and sentence_embedding"));
}

absl::StatusOr<std::vector<std::string>> ReadNames(const std::string& path, const Json& list, const std::string& what) {
  std::vector<std::string> names;
  bool valid = list.is_array();
  for (const Json& name : list) {
    valid = valid && name.is_string();
    if (valid) names.push_back(name.get<std::string>());
  }
  if (valid) return names;
  return Malformed(path, absl::StrCat("\"", what, "\" must be a list of names"));
}

absl::StatusOr<std::vector<std::string>> ReadLabelNames(const std::string& path, const Json& manifest,
                                                        const std::string& task) {
  std::vector<std::string> labels;
  const bool wanted = HasLabels(KindsOf(task).front());
  if (!wanted && !manifest.contains("labels")) return labels;
  WEFT_ASSIGN_OR_RETURN(const Json list, Member<Json>(path, manifest, "labels", &Json::is_array, "a list of names"));
  WEFT_ASSIGN_OR_RETURN(labels, ReadNames(path, list, "labels"));
  if (wanted && labels.empty()) return Malformed(path, "\"labels\" names no label");
  if (!wanted && !labels.empty()) {
    return Malformed(path, absl::StrCat("\"labels\" names ", labels.size(), " labels, task ", task, " has none"));
  }
  return labels;
}

// One split of a manifest, opened and compared with what the manifest says of it.
absl::StatusOr<std::unique_ptr<DataShard>> OpenSplit(const std::string& folder, const std::string& path,
                                                     const std::string& name, const Json& split, int64_t num_labels) {
  if (!split.is_object()) return Malformed(path, absl::StrCat("split \"", name, "\" must be an object"));
  WEFT_ASSIGN_OR_RETURN(const std::string file,
                        Member<std::string>(path, split, "file", &Json::is_string, "a file name"));
  WEFT_ASSIGN_OR_RETURN(const int64_t rows, Member<int64_t>(path, split, "rows", &Json::is_number_unsigned, "a count"));
  if (file.empty() || file.find('/') != std::string::npos) {
    return Malformed(path, absl::StrCat("split \"", name, "\": file \"", file, "\" must be a name inside the folder"));
  }
  const std::string shard_path = absl::StrCat(folder, "/", file);
  if (!std::filesystem::exists(shard_path)) {
    return absl::NotFoundError(
        absl::StrCat(shard_path, ": missing, though manifest.json names it; run `weft prepare` again"));
  }
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<DataShard> shard, DataShard::Open(shard_path, num_labels));
  if (shard->rows() == 0) return Malformed(path, absl::StrCat("empty shard: split \"", name, "\" has no rows"));
  if (shard->rows() != rows) {
    return Malformed(path,
                     absl::StrCat("split \"", name, "\" has ", rows, " rows here but ", shard->rows(), " in ", file));
  }
  return shard;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DataShard>> DataShard::Open(const std::string& path, int64_t num_labels) {
  WEFT_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  std::unique_ptr<DataShard> shard(new DataShard(std::move(file), path));
  WEFT_RETURN_IF_ERROR(shard->ReadKind(num_labels));
  if (HasLabels(shard->kind_)) WEFT_RETURN_IF_ERROR(shard->ReadLabels(num_labels));
  switch (shard->kind_) {
    case RowKind::kImages:
      WEFT_RETURN_IF_ERROR(shard->ReadImages());
      break;
    case RowKind::kFeatures:
      WEFT_RETURN_IF_ERROR(shard->ReadFeatures());
      break;
    default:
      WEFT_RETURN_IF_ERROR(shard->ReadTokens());
  }
  WEFT_RETURN_IF_ERROR(shard->ReadGroups());
  return shard;
}

absl::StatusOr<std::unique_ptr<DataShard>> DataShard::Select(std::vector<uint32_t> rows) const {
  for (uint32_t& row : rows) {
    if (row >= rows_) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": row ", row, " is asked for, there are ", rows_));
    }
  }
  std::unique_ptr<DataShard> shard(new DataShard(*this));
  shard->own_labels_.clear();
  shard->own_pixels_.clear();
  const int64_t pixels = channels_ * height_ * width_pixels_;
  for (uint32_t& row : rows) {
    if (!own_labels_.empty()) shard->own_labels_.push_back(own_labels_[row]);
    if (!own_pixels_.empty()) {
      const auto begin = own_pixels_.begin() + row * pixels;
      shard->own_pixels_.insert(shard->own_pixels_.end(), begin, begin + pixels);
    }
    row = static_cast<uint32_t>(At(row));
  }
  shard->index_ = std::move(rows);
  shard->rows_ = static_cast<int64_t>(shard->index_.size());
  shard->CountTokens();
  return shard;
}

void DataShard::CountTokens() {
  tokens_ = longest_row_ = 0;
  if (row_offsets_.empty()) return;
  const int64_t texts = kind_ == RowKind::kPairs ? 2 : 1;
  for (int64_t i = 0; i < rows_; ++i) {
    for (int64_t text = texts * At(i); text < texts * (At(i) + 1); ++text) {
      const int64_t length = row_offsets_[text + 1] - row_offsets_[text];
      tokens_ += length;
      longest_row_ = std::max(longest_row_, length);
    }
  }
}

absl::Status DataShard::ReadGroups() {
  constexpr absl::string_view kPrefix = "group.";
  for (const auto& [name, view] : file_->tensors()) {
    if (!absl::StartsWith(name, kPrefix)) continue;
    WEFT_ASSIGN_OR_RETURN(const std::span<const int32_t> group, ReadColumn<int32_t>(*file_, path_, name, "I32"));
    if (static_cast<int64_t>(group.size()) != rows_) {
      return absl::DataLossError(
          absl::StrCat(path_, ": ", name, " has ", group.size(), " values, expected one for each of ", rows_, " rows"));
    }
    groups_[name.substr(kPrefix.size())] = group;
  }
  return absl::OkStatus();
}

absl::Status DataShard::ReadKind(int64_t num_labels) {
  std::vector<std::string> kinds;
  for (const char* name : {"input_ids", "features", "pixels"}) {
    if (file_->tensors().contains(name)) kinds.push_back(name);
  }
  if (kinds.size() > 1) {
    return absl::DataLossError(absl::StrCat(path_, ": holds both ", kinds[0], " and ", kinds[1],
                                            "; a split is of tokens, of features or of images"));
  }
  if (kinds.empty()) {
    return absl::DataLossError(absl::StrCat(path_,
                                            ": holds none of the tensors input_ids, features and pixels, "
                                            "expected one; run `weft prepare` again"));
  }
  const bool learn = file_->tensors().contains("learn"), labels = file_->tensors().contains("labels");
  kind_ = kinds[0] == "features" ? RowKind::kFeatures
          : kinds[0] == "pixels" ? RowKind::kImages
          : learn                ? RowKind::kLearn
          : labels               ? RowKind::kText
                                 : RowKind::kPairs;
  if (learn && (labels || kind_ != RowKind::kLearn)) {
    return absl::DataLossError(absl::StrCat(path_, ": holds learn beside ", labels ? "labels" : kinds[0],
                                            "; only texts without labels have tokens to learn"));
  }
  if (HasLabels(kind_) == (num_labels > 0)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(path_, ": ", HasLabels(kind_) ? "has labels" : "has no tensor labels",
                                          ", expected ",
                                          num_labels > 0 ? absl::StrCat("one of ", num_labels, " labels") : "no label",
                                          " for each row; prepare the data for the job's task"));
}

absl::Status DataShard::ReadLabels(int64_t num_labels) {
  WEFT_ASSIGN_OR_RETURN(labels_, ReadColumn<int32_t>(*file_, path_, "labels", "I32"));
  rows_ = static_cast<int64_t>(labels_.size());
  for (int64_t i = 0; i < rows_; ++i) {
    if (label(i) >= 0 && label(i) < num_labels) continue;
    return absl::InvalidArgumentError(absl::StrCat(path_, ": row ", i, " has label ", label(i), ", expected 0 to ",
                                                   num_labels - 1, "; prepare the data with the job's labels"));
  }
  return absl::OkStatus();
}

absl::Status DataShard::ReadTokens() {
  WEFT_ASSIGN_OR_RETURN(input_ids_, ReadColumn<int32_t>(*file_, path_, "input_ids", "I32"));
  WEFT_ASSIGN_OR_RETURN(row_offsets_, ReadColumn<int64_t>(*file_, path_, "row_offsets", "I64"));
  WEFT_RETURN_IF_ERROR(CheckOffsets(path_, row_offsets_, input_ids_.size()));
  const auto texts = static_cast<int64_t>(row_offsets_.size()) - 1;
  if (kind_ == RowKind::kText && texts != rows_) {
    return absl::DataLossError(
        absl::StrCat(path_, ": ", rows_, " labels but ", texts, " rows in row_offsets; run `weft prepare` again"));
  }
  if (kind_ == RowKind::kPairs && texts % 2 != 0) {
    return absl::DataLossError(absl::StrCat(path_, ": ", texts,
                                            " texts in row_offsets, expected two for each pair; run `weft prepare` "
                                            "again"));
  }
  if (kind_ == RowKind::kLearn) {
    WEFT_ASSIGN_OR_RETURN(learn_, ReadColumn<uint8_t>(*file_, path_, "learn", "U8"));
    if (learn_.size() != input_ids_.size()) {
      return absl::DataLossError(absl::StrCat(path_, ": learn has ", learn_.size(),
                                              " values, expected one for each of ", input_ids_.size(),
                                              " tokens; run `weft prepare` again"));
    }
  }
  rows_ = kind_ == RowKind::kPairs ? texts / 2 : texts;
  for (int64_t i = 0; i < texts; ++i) {
    if (row_offsets_[i + 1] > row_offsets_[i]) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": row ", kind_ == RowKind::kPairs ? i / 2 : i, " has no tokens",
                     kind_ == RowKind::kPairs ? " in one of its texts" : "", "; run `weft prepare` again"));
  }
  CountTokens();
  return absl::OkStatus();
}

absl::Status DataShard::ReadFeatures() {
  WEFT_ASSIGN_OR_RETURN(features_, ReadColumn<float>(*file_, path_, "features", "F32", /*dimensions=*/2));
  WEFT_RETURN_IF_ERROR(CheckRowCount("features"));
  width_ = file_->tensors().at("features").shape[1];
  if (width_ < 1) return absl::DataLossError(absl::StrCat(path_, ": rows of no features"));
  for (size_t i = 0; i < features_.size(); ++i) {
    if (std::isfinite(features_[i])) continue;
    return absl::InvalidArgumentError(absl::StrCat(path_, ": row ", i / width_, ", feature ", i % width_, " is ",
                                                   features_[i], ", expected a finite number"));
  }
  return absl::OkStatus();
}

absl::Status DataShard::ReadImages() {
  WEFT_ASSIGN_OR_RETURN(pixels_, ReadColumn<uint8_t>(*file_, path_, "pixels", "U8", /*dimensions=*/4));
  WEFT_RETURN_IF_ERROR(CheckRowCount("pixels"));
  const std::vector<int64_t>& shape = file_->tensors().at("pixels").shape;
  channels_ = shape[1], height_ = shape[2], width_pixels_ = shape[3];
  if (channels_ < 1 || height_ < 1 || width_pixels_ < 1) {
    return absl::DataLossError(absl::StrCat(path_, ": ", Describe(), ", expected at least 1 x 1 x 1"));
  }
  WEFT_ASSIGN_OR_RETURN(image_mean_, ReadPerChannel("image_mean"));
  WEFT_ASSIGN_OR_RETURN(image_std_, ReadPerChannel("image_std"));
  for (const float value : image_std_) {
    if (value > 0) continue;
    return absl::DataLossError(absl::StrCat(path_, ": metadata image_std holds ", value, ", expected more than 0"));
  }
  return absl::OkStatus();
}

absl::Status DataShard::CheckRowCount(const std::string& what) const {
  const int64_t found = file_->tensors().at(what).shape[0];
  if (found == rows_) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(path_, ": ", rows_, " labels but ", found, " rows of ", what, "; run `weft prepare` again"));
}

absl::StatusOr<std::vector<float>> DataShard::ReadPerChannel(const std::string& name) const {
  const auto found = file_->metadata().find(name);
  std::vector<float> values;
  bool numbers = found != file_->metadata().end();
  if (numbers) {
    for (const absl::string_view part : absl::StrSplit(found->second, ',')) {
      float value = 0;
      numbers = numbers && absl::SimpleAtof(part, &value) && std::isfinite(value);
      values.push_back(value);
    }
  }
  if (numbers && static_cast<int64_t>(values.size()) == channels_) return values;
  return absl::DataLossError(absl::StrCat(
      path_, ": metadata ", name, " is ",
      found == file_->metadata().end() ? "missing" : absl::StrCat("\"", found->second, "\""), ", expected ", channels_,
      " numbers with commas between; run `weft prepare` "
      "again"));
}

std::string DataShard::Describe() const {
  switch (kind_) {
    case RowKind::kText:
      return "rows of tokens";
    case RowKind::kLearn:
      return "rows of tokens to learn";
    case RowKind::kPairs:
      return "pairs of rows of tokens";
    case RowKind::kFeatures:
      return absl::StrCat("rows of ", width_, " features");
    case RowKind::kImages:
      return absl::StrCat("images of ", channels_, " x ", height_, " x ", width_pixels_);
  }
  return "";
}

absl::Status DataShard::CheckRow(int64_t i) const {
  const auto refuse = [&](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": row ", i, " ", why, "; run `weft prepare` again"));
  };
  const auto check = [&](std::span<const int32_t> tokens) {
    for (const int32_t token : tokens) {
      if (token < 0) return refuse(absl::StrCat("holds the negative token ", token));
    }
    return absl::OkStatus();
  };
  WEFT_RETURN_IF_ERROR(check(row(i)));
  if (kind_ == RowKind::kPairs) return check(partner(i));
  if (kind_ != RowKind::kLearn) return absl::OkStatus();
  bool any = false;
  for (const uint8_t value : learn(i)) {
    if (value > 1) return refuse(absl::StrCat("has ", static_cast<int>(value), " in learn, expected 0 or 1"));
    any = any || value == 1;
  }
  return any ? absl::OkStatus() : refuse("has no token to learn");
}

absl::StatusOr<DataFolder> DataFolder::Open(const std::string& folder) {
  const std::string path = folder + "/manifest.json";
  WEFT_ASSIGN_OR_RETURN(const Json manifest, ReadManifest(folder, path));
  DataFolder result;
  WEFT_ASSIGN_OR_RETURN(result.task_, ReadTask(path, manifest));
  WEFT_ASSIGN_OR_RETURN(result.labels_, ReadLabelNames(path, manifest, result.task_));
  WEFT_ASSIGN_OR_RETURN(const Json splits,
                        Member<Json>(path, manifest, "splits", &Json::is_object, "an object of splits"));
  const std::vector<RowKind> kinds = KindsOf(result.task_);
  for (const auto& [name, split] : splits.items()) {
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<DataShard> shard,
                          OpenSplit(folder, path, name, split, static_cast<int64_t>(result.labels_.size())));
    if (std::find(kinds.begin(), kinds.end(), shard->kind()) == kinds.end()) {
      return Malformed(path, absl::StrCat("split \"", name, "\" has ", shard->Describe(), ", which task ", result.task_,
                                          " does not read"));
    }
    if (const auto& first = result.splits_.begin();
        first != result.splits_.end() && first->second->Describe() != shard->Describe()) {
      return Malformed(path, absl::StrCat("split \"", first->first, "\" has ", first->second->Describe(), ", split \"",
                                          name, "\" has ", shard->Describe()));
    }
    result.splits_[name] = std::move(shard);
  }
  WEFT_RETURN_IF_ERROR(result.ReadGroups(path, manifest));
  return result;
}

absl::Status DataFolder::ReadGroups(const std::string& path, const Json& manifest) {
  if (!manifest.contains("groups")) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(const Json columns,
                        Member<Json>(path, manifest, "groups", &Json::is_object, "an object of columns"));
  for (const auto& [column, list] : columns.items()) {
    WEFT_ASSIGN_OR_RETURN(std::vector<std::string> names, ReadNames(path, list, absl::StrCat("groups of ", column)));
    for (const auto& [split, shard] : splits_) {
      const std::span<const int32_t> group = shard->group(column);
      if (group.empty()) {
        return Malformed(path, absl::StrCat("split \"", split, "\" has no tensor group.", column,
                                            ", though \"groups\" names the column"));
      }
      for (size_t i = 0; i < group.size(); ++i) {
        if (group[i] >= 0 && group[i] < static_cast<int32_t>(names.size())) continue;
        return Malformed(path, absl::StrCat("row ", i, " of split \"", split, "\" has ", group[i], " in group.", column,
                                            ", expected 0 to ", static_cast<int64_t>(names.size()) - 1));
      }
    }
    groups_[column] = std::move(names);
  }
  return absl::OkStatus();
}

const DataShard* DataFolder::split(const std::string& name) const {
  const auto found = splits_.find(name);
  return found == splits_.end() ? nullptr : found->second.get();
}

int64_t DataFolder::rows(const std::string& name) const {
  const DataShard* shard = split(name);
  return shard == nullptr ? 0 : shard->rows();
}

}  // namespace weft
