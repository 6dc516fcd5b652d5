#include "training/models/weights.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"

namespace weft {
namespace {

absl::StatusOr<at::ScalarType> FloatType(const std::string& dtype) {
  if (dtype == "F32") return at::kFloat;
  if (dtype == "BF16") return at::kBFloat16;
  if (dtype == "F16") return at::kHalf;
  return absl::InvalidArgumentError(absl::StrCat("has dtype ", dtype, ", expected F32, BF16 or F16"));
}

// fp32 values of a view: in place where dtype and alignment allow, else copied.
at::Tensor AsFloat(const SafetensorView& view, at::ScalarType dtype) {
  // The mapping is read-only and nothing writes to frozen weights; from_blob has no const variant.
  auto* data = const_cast<std::byte*>(view.data.data());
  const bool aligned = reinterpret_cast<uintptr_t>(data) % SafetensorsDtypeSize(view.dtype) == 0;
  if (aligned) return at::from_blob(data, view.shape, at::TensorOptions(dtype)).to(at::kFloat);
  at::Tensor copy = at::empty(view.shape, at::TensorOptions(dtype));
  std::memcpy(copy.mutable_data_ptr(), data, view.data.size());
  return copy.to(at::kFloat);
}

}  // namespace

absl::StatusOr<std::unique_ptr<BaseWeights>> BaseWeights::Open(const std::string& folder) {
  std::error_code error;
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path().string());
  }
  if (error)
    return absl::NotFoundError(absl::StrCat(folder, ": ", error.message(), "; expected a Hugging Face folder"));
  if (paths.empty()) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": no *.safetensors there; expected a Hugging Face folder with weights"));
  }
  std::sort(paths.begin(), paths.end());
  std::unique_ptr<BaseWeights> weights(new BaseWeights(folder));
  for (const std::string& path : paths) {
    WEFT_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
    weights->files_.push_back(std::make_unique<SafetensorsFile>(std::move(file)));
    for (const auto& [name, view] : weights->files_.back()->tensors()) {
      if (!weights->tensors_.emplace(name, view).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": tensor ", name, " is in another file of the folder too"));
      }
    }
  }
  return weights;
}

absl::StatusOr<at::Tensor> BaseWeights::Get(const std::string& prefix, const std::string& name,
                                            const std::vector<int64_t>& shape, at::Device device) const {
  auto found = tensors_.find(prefix + name);
  if (found == tensors_.end()) found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::InvalidArgumentError(absl::StrCat(folder_, ": the weights hold no tensor ", prefix, name, " (nor ",
                                                   name, "); the base does not match its config.json"));
  }
  const SafetensorView& view = found->second;
  if (view.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(folder_, ": tensor ", found->first, " has shape [",
                                                   absl::StrJoin(view.shape, ", "), "], config.json asks for [",
                                                   absl::StrJoin(shape, ", "), "]"));
  }
  const absl::StatusOr<at::ScalarType> dtype = FloatType(view.dtype);
  if (!dtype.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(folder_, ": tensor ", found->first, " ", dtype.status().message()));
  }
  return AsFloat(view, *dtype).to(device);
}

}  // namespace weft
