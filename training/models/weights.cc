#include "training/models/weights.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace weft {
namespace {

constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kSingle[] = "model.safetensors";

absl::StatusOr<at::ScalarType> FloatType(const std::string& dtype) {
  if (dtype == "F32") return at::kFloat;
  if (dtype == "BF16") return at::kBFloat16;
  if (dtype == "F16") return at::kHalf;
  return absl::InvalidArgumentError(absl::StrCat("has dtype ", dtype, ", expected F32, BF16 or F16"));
}

at::Tensor AsTensor(const SafetensorView& view, at::ScalarType dtype) {
  // The mapping is read-only and nothing writes to frozen weights; from_blob has no const variant.
  auto* data = const_cast<std::byte*>(view.data.data());
  const bool aligned = reinterpret_cast<uintptr_t>(data) % SafetensorsDtypeSize(view.dtype) == 0;
  if (aligned) return at::from_blob(data, view.shape, at::TensorOptions(dtype));
  at::Tensor copy = at::empty(view.shape, at::TensorOptions(dtype));
  std::memcpy(copy.mutable_data_ptr(), data, view.data.size());
  return copy;
}

// Files that an index names: {"weight_map": {tensor: file, ...}}.
absl::StatusOr<std::vector<std::string>> FilesOfIndex(const std::string& folder) {
  WEFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(absl::StrCat(folder, "/", kIndex)));
  const nlohmann::json index = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto refuse = [&](const char* what) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder, "/", kIndex, ": ", what, "; expected weight_map, the file of each tensor"));
  };
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return refuse("found no weight_map");
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string() || absl::StrContains(file.get<std::string>(), "/"))
      return refuse("found a file that is no name");
    names.insert(file.get<std::string>());
  }
  return std::vector<std::string>(names.begin(), names.end());
}

absl::StatusOr<std::vector<std::string>> WeightFiles(const std::string& folder) {
  std::error_code error;
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name == kIndex) return FilesOfIndex(folder);
    if (entry.path().extension() == ".safetensors") names.push_back(name);
  }
  if (error) {
    return absl::NotFoundError(absl::StrCat(folder, ": ", error.message(), "; expected a Hugging Face folder"));
  }
  if (names.empty()) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": no *.safetensors there; expected a Hugging Face folder with weights"));
  }
  std::sort(names.begin(), names.end());
  if (std::find(names.begin(), names.end(), kSingle) != names.end()) return std::vector<std::string>{kSingle};
  return names;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BaseWeights>> BaseWeights::Open(const std::string& folder, const std::string& prefix) {
  std::unique_ptr<BaseWeights> weights(new BaseWeights(folder, prefix));
  WEFT_ASSIGN_OR_RETURN(const std::vector<std::string> names, WeightFiles(folder));
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(folder, "/", name);
    WEFT_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
    weights->files_.push_back(std::make_unique<SafetensorsFile>(std::move(file)));
    for (const auto& [tensor, view] : weights->files_.back()->tensors()) {
      if (weights->tensors_.emplace(tensor, view).second) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor ", tensor, " is in another file of the folder too"));
    }
  }
  return weights;
}

std::string BaseWeights::NameInFiles(const std::string& name) const {
  std::vector<std::string> names = {name};
  if (absl::EndsWith(name, ".weight")) names.push_back(absl::StrCat(absl::StripSuffix(name, "weight"), "gamma"));
  if (absl::EndsWith(name, ".bias")) names.push_back(absl::StrCat(absl::StripSuffix(name, "bias"), "beta"));
  for (const std::string& candidate : names) {
    if (tensors_.contains(candidate)) return candidate;
    std::string bare(absl::StripPrefix(candidate, prefix_));
    if (tensors_.contains(bare)) return bare;
  }
  return "";
}

absl::StatusOr<at::Tensor> BaseWeights::Get(const std::string& name, const std::vector<int64_t>& shape) const {
  const std::string found = NameInFiles(name);
  if (found.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(folder_, ": the weights hold no tensor ", name, " (nor ",
                                                   absl::StripPrefix(name, prefix_),
                                                   "); the base does not match its config.json"));
  }
  const SafetensorView& view = tensors_.at(found);
  if (view.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(folder_, ": tensor ", found, " has shape [",
                                                   absl::StrJoin(view.shape, ", "), "], config.json asks for [",
                                                   absl::StrJoin(shape, ", "), "]"));
  }
  const absl::StatusOr<at::ScalarType> dtype = FloatType(view.dtype);
  if (!dtype.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(folder_, ": tensor ", found, " ", dtype.status().message()));
  }
  return AsTensor(view, *dtype);
}

absl::StatusOr<at::Tensor> BaseWeights::Take(const std::string& name, const std::vector<int64_t>& shape) {
  WEFT_ASSIGN_OR_RETURN(at::Tensor tensor, Get(name, shape));
  taken_.insert(NameInFiles(name));
  return tensor;
}

absl::Status BaseWeights::CheckAllTaken(const std::vector<std::string>& ignored) const {
  for (const auto& [name, view] : tensors_) {
    const bool known =
        taken_.contains(name) || std::any_of(ignored.begin(), ignored.end(), [&](const std::string& beginning) {
          return absl::StartsWith(name, beginning) || absl::StartsWith(prefix_ + name, beginning);
        });
    if (known) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        folder_, ": tensor ", name, " [", absl::StrJoin(view.shape, ", "),
        "] is no part of the model that config.json describes; the weights are another model's, or config.json is"));
  }
  return absl::OkStatus();
}

void BaseWeights::DropPages() const {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  for (const auto& [name, view] : tensors_) {
    const auto begin = reinterpret_cast<uintptr_t>(view.data.data()), end = begin + view.data.size();
    const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }
}

}  // namespace weft
