#include "adapters/peft_folder.h"

#include <bit>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/forms/form.h"
#include "adapters/safetensors.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr char kConfigFile[] = "adapter_config.json";
constexpr char kTensorFile[] = "adapter_model.safetensors";
constexpr char kWeftFile[] = "weft.json";
// PeftModel and its tuner wrap the task model in these attributes.
constexpr char kPrefix[] = "base_model.model.";
constexpr char kRoleHead[] = "head";

std::string Dump(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

absl::Status Under(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

// "classifier" of "classifier.weight"; empty without a head.
std::string HeadModule(const Layout& layout) {
  for (const TensorSpec& spec : layout.tensors()) {
    if (spec.role == kRoleHead) return spec.name.substr(0, spec.name.rfind('.'));
  }
  return "";
}

Json MakePeftConfig(const Layout& layout, const Form& form, const PeftFolderOptions& options) {
  Json config = form.PeftConfig();
  const std::string head = HeadModule(layout);
  config["task_type"] = "SEQ_CLS";
  config["modules_to_save"] = head.empty() ? Json() : Json::array({head});
  config["base_model_name_or_path"] = options.base_name;
  config["inference_mode"] = true;
  config["auto_mapping"] = nullptr;
  config["revision"] = nullptr;
  return config;
}

// IEEE binary16 to binary32, exactly.
float WidenHalf(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 0x1f, fraction = half & 0x3ff;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24
    const float value = static_cast<float>(fraction) * 0x1p-24f;
    return sign == 0 ? value : -value;
  }
  const uint32_t wide = exponent == 0x1f ? 0xff : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (wide << 23) | (fraction << 13));
}

float WidenBfloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// `from` may be unaligned.
void Widen(std::span<const std::byte> from, float (*widen)(uint16_t), std::span<float> to) {
  for (size_t i = 0; i < to.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, from.data() + i * sizeof(bits), sizeof(bits));
    to[i] = widen(bits);
  }
}

absl::Status ReadTensor(const SafetensorView& view, const TensorSpec& spec, std::span<float> to) {
  if (view.shape != spec.shape) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", kPrefix, spec.name, " has shape [", absl::StrJoin(view.shape, ", "), "], expected [",
                     absl::StrJoin(spec.shape, ", "), "]; use the job's rank and labels"));
  }
  if (view.dtype == "F32") {
    std::memcpy(to.data(), view.data.data(), view.data.size());
  } else if (view.dtype == "F16") {
    Widen(view.data, WidenHalf, to);
  } else if (view.dtype == "BF16") {
    Widen(view.data, WidenBfloat, to);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", kPrefix, spec.name, " has dtype ", view.dtype, ", expected F32, F16 or BF16"));
  }
  return absl::OkStatus();
}

absl::Status ReadTensors(const SafetensorsFile& file, Adapter* adapter) {
  for (const TensorSpec& spec : adapter->layout().tensors()) {
    const auto found = file.tensors().find(kPrefix + spec.name);
    if (found == file.tensors().end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("no tensor ", kPrefix, spec.name, "; use the job's target modules, and its head or none"));
    }
    WEFT_RETURN_IF_ERROR(ReadTensor(found->second, spec, adapter->tensor(spec)));
  }
  for (const auto& [name, view] : file.tensors()) {
    const bool known = name.starts_with(kPrefix) && adapter->layout().Find(name.substr(sizeof(kPrefix) - 1)) != nullptr;
    if (known) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, " has no place in the job's adapter; use the folder's target modules and head"));
  }
  return absl::OkStatus();
}

absl::Status WriteFolder(const std::string& folder, const Adapter& adapter, const Form& form,
                         const PeftFolderOptions& options) {
  const Json config = MakePeftConfig(adapter.layout(), form, options);
  const Json facts = {{"format", "weft-adapter"},
                      {"version", 1},
                      {"task", options.task.type()},
                      {"labels", std::vector<std::string>(options.task.labels().begin(), options.task.labels().end())},
                      {"base_hash", options.base_hash},
                      {"layout_hash", adapter.layout().hash()}};
  std::vector<SafetensorToWrite> tensors;
  for (const TensorSpec& spec : adapter.layout().tensors()) {
    tensors.push_back({kPrefix + spec.name, "F32", spec.shape, std::as_bytes(adapter.tensor(spec))});
  }
  WEFT_RETURN_IF_ERROR(MakeDirectories(folder));
  // transformers and PEFT look for "format".
  const std::map<std::string, std::string> metadata = {
      {"format", "pt"}, {"weft", facts.dump(-1, ' ', false, Json::error_handler_t::replace)}};
  WEFT_RETURN_IF_ERROR(WriteSafetensors(absl::StrCat(folder, "/", kTensorFile), tensors, metadata));
  WEFT_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(folder, "/", kWeftFile), Dump(facts)));
  return WriteFileAtomically(absl::StrCat(folder, "/", kConfigFile), Dump(config));
}

}  // namespace

absl::Status WritePeftFolder(const std::string& folder, const Adapter& adapter, const PeftFolderOptions& options) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(options.adapter));
  WEFT_ASSIGN_OR_RETURN(const std::optional<FormedAdapter> known, form->ForPeft(adapter));
  if (!known.has_value()) return WriteFolder(folder, adapter, *form, options);
  WEFT_RETURN_IF_ERROR(WriteFolder(absl::StrCat(folder, "/", options.adapter.form()), adapter, *form, options));
  PeftFolderOptions as_known = options;
  as_known.adapter = known->config;
  return WritePeftFolder(folder, known->adapter, as_known);
}

absl::StatusOr<Adapter> ReadPeftFolder(const std::string& folder, std::shared_ptr<const Layout> layout) {
  WEFT_RETURN_IF_ERROR(ReadPeftConfig(folder).status());
  const std::string path = absl::StrCat(folder, "/", kTensorFile);
  if (!std::filesystem::exists(path)) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": no ", kTensorFile, " there; save the adapter with safe_serialization"));
  }
  WEFT_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  Adapter adapter(std::move(layout));
  if (const absl::Status status = ReadTensors(file, &adapter); !status.ok()) return Under(path, status);
  return adapter;
}

absl::StatusOr<proto::AdapterConfig> ReadPeftConfig(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kConfigFile);
  if (!std::filesystem::exists(path)) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": no ", kConfigFile, " there; expected a Hugging Face PEFT folder"));
  }
  WEFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  absl::StatusOr<proto::AdapterConfig> config =
      FormFromPeftConfig(Json::parse(text, nullptr, /*allow_exceptions=*/false));
  if (!config.ok()) return Under(folder, config.status());
  return config;
}

}  // namespace weft
