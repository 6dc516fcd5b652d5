#include "training/data/shard.h"

#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
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

absl::StatusOr<std::vector<std::string>> ReadLabels(const std::string& path, const Json& manifest) {
  WEFT_ASSIGN_OR_RETURN(const Json list, Member<Json>(path, manifest, "labels", &Json::is_array, "a list of names"));
  std::vector<std::string> labels;
  for (const Json& label : list) {
    if (!label.is_string()) return Malformed(path, "\"labels\" must be a list of names");
    labels.push_back(label.get<std::string>());
  }
  if (labels.empty()) return Malformed(path, "\"labels\" names no label");
  return labels;
}

// What a shard's rows are, for messages.
std::string Kind(const DataShard& shard) {
  return shard.width() == 0 ? "rows of tokens" : absl::StrCat("rows of ", shard.width(), " features");
}

}  // namespace

absl::StatusOr<std::unique_ptr<DataShard>> DataShard::Open(const std::string& path, int64_t num_labels) {
  WEFT_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  std::unique_ptr<DataShard> shard(new DataShard(std::move(file)));
  const auto& tensors = shard->file_.tensors();
  const bool features = tensors.contains("features");
  if (features && tensors.contains("input_ids")) {
    return absl::DataLossError(
        absl::StrCat(path, ": holds both input_ids and features; a split is of tokens or of features"));
  }
  WEFT_ASSIGN_OR_RETURN(shard->labels_, ReadColumn<int32_t>(shard->file_, path, "labels", "I32"));
  for (int64_t i = 0; i < shard->rows(); ++i) {
    if (shard->label(i) < 0 || shard->label(i) >= num_labels) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": row ", i, " has label ", shard->label(i),
                                                     ", expected 0 to ", num_labels - 1,
                                                     "; prepare the data with the job's labels"));
    }
  }
  WEFT_RETURN_IF_ERROR(features ? shard->ReadFeatures(path) : shard->ReadTokens(path));
  return shard;
}

absl::Status DataShard::ReadTokens(const std::string& path) {
  WEFT_ASSIGN_OR_RETURN(input_ids_, ReadColumn<int32_t>(file_, path, "input_ids", "I32"));
  WEFT_ASSIGN_OR_RETURN(row_offsets_, ReadColumn<int64_t>(file_, path, "row_offsets", "I64"));
  WEFT_RETURN_IF_ERROR(CheckOffsets(path, row_offsets_, input_ids_.size()));
  if (row_offsets_.size() != labels_.size() + 1) {
    return absl::DataLossError(absl::StrCat(path, ": ", labels_.size(), " labels but ", row_offsets_.size() - 1,
                                            " rows in row_offsets; run `weft prepare` again"));
  }
  for (int64_t i = 0; i < rows(); ++i) {
    if (row(i).empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": row ", i, " has no tokens"));
    for (const int32_t token : row(i)) {
      if (token < 0)
        return absl::InvalidArgumentError(absl::StrCat(path, ": row ", i, " holds the negative token ", token));
    }
  }
  return absl::OkStatus();
}

absl::Status DataShard::ReadFeatures(const std::string& path) {
  WEFT_ASSIGN_OR_RETURN(features_, ReadColumn<float>(file_, path, "features", "F32", /*dimensions=*/2));
  WEFT_ASSIGN_OR_RETURN(const SafetensorView view, file_.Find("features"));
  if (view.shape[0] != rows()) {
    return absl::DataLossError(absl::StrCat(path, ": ", rows(), " labels but ", view.shape[0], " rows of features"));
  }
  width_ = view.shape[1];
  if (width_ < 1) return absl::DataLossError(absl::StrCat(path, ": rows of no features"));
  for (size_t i = 0; i < features_.size(); ++i) {
    if (std::isfinite(features_[i])) continue;
    return absl::InvalidArgumentError(absl::StrCat(path, ": row ", i / width_, ", feature ", i % width_, " is ",
                                                   features_[i], ", expected a finite number"));
  }
  return absl::OkStatus();
}

absl::StatusOr<DataFolder> DataFolder::Open(const std::string& folder) {
  const std::string path = folder + "/manifest.json";
  WEFT_ASSIGN_OR_RETURN(const Json manifest, ReadManifest(folder, path));
  DataFolder result;
  WEFT_ASSIGN_OR_RETURN(result.task_, Member<std::string>(path, manifest, "task", &Json::is_string, "a name"));
  WEFT_ASSIGN_OR_RETURN(result.labels_, ReadLabels(path, manifest));
  WEFT_ASSIGN_OR_RETURN(const Json splits,
                        Member<Json>(path, manifest, "splits", &Json::is_object, "an object of splits"));
  for (const auto& [name, split] : splits.items()) {
    if (!split.is_object()) return Malformed(path, absl::StrCat("split \"", name, "\" must be an object"));
    WEFT_ASSIGN_OR_RETURN(const std::string file,
                          Member<std::string>(path, split, "file", &Json::is_string, "a file name"));
    WEFT_ASSIGN_OR_RETURN(const int64_t rows,
                          Member<int64_t>(path, split, "rows", &Json::is_number_unsigned, "a count"));
    if (file.empty() || file.find('/') != std::string::npos) {
      return Malformed(path,
                       absl::StrCat("split \"", name, "\": file \"", file, "\" must be a name inside the folder"));
    }
    const std::string shard_path = absl::StrCat(folder, "/", file);
    if (!std::filesystem::exists(shard_path)) {
      return absl::NotFoundError(
          absl::StrCat(shard_path, ": missing, though manifest.json names it; run `weft prepare` again"));
    }
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<DataShard> shard,
                          DataShard::Open(shard_path, static_cast<int64_t>(result.labels_.size())));
    if (shard->rows() == 0) return Malformed(path, absl::StrCat("empty shard: split \"", name, "\" has no rows"));
    if (shard->rows() != rows) {
      return Malformed(path,
                       absl::StrCat("split \"", name, "\" has ", rows, " rows here but ", shard->rows(), " in ", file));
    }
    if (const auto& first = result.splits_.begin();
        first != result.splits_.end() && first->second->width() != shard->width()) {
      return Malformed(path, absl::StrCat("split \"", first->first, "\" has ", Kind(*first->second), ", split \"", name,
                                          "\" has ", Kind(*shard)));
    }
    result.splits_[name] = std::move(shard);
  }
  return result;
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
