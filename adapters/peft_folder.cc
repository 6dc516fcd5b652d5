#include "adapters/peft_folder.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "adapters/forms/form.h"
#include "adapters/safetensors.h"
#include "common/file.h"
#include "common/half.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr char kConfigFile[] = "adapter_config.json";
constexpr char kTensorFile[] = "adapter_model.safetensors";
constexpr char kWeftFile[] = "weft.json";
constexpr char kRoleHead[] = "head";

std::string Dump(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

absl::Status Under(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

// Names of an adapter's tensors in a folder.
class Keys {
 public:
  Keys(const Form& form, const BaseDescription& base, const TaskDescription& task)
      : form_(form), prefix_(task.prefixed ? "" : base.prefix) {}
  std::string operator()(const TensorSpec& spec) const {
    return form_.PeftName(std::string(absl::StripPrefix(spec.name, prefix_)), spec.role);
  }

 private:
  const Form& form_;
  const std::string prefix_;  // which the task's model lacks
};

// The modules of the task's model that hold the head, "classifier" of "classifier.out_proj.weight".
std::vector<std::string> HeadModules(const Layout& layout) {
  std::vector<std::string> modules;
  for (const TensorSpec& spec : layout.tensors()) {
    if (spec.role != kRoleHead) continue;
    std::string module = spec.name.substr(0, spec.name.find('.'));
    if (std::find(modules.begin(), modules.end(), module) == modules.end()) modules.push_back(std::move(module));
  }
  return modules;
}

absl::StatusOr<Json> MakePeftConfig(const Layout& layout, const Form& form, const TaskDescription& task,
                                    const PeftFolderOptions& options) {
  WEFT_ASSIGN_OR_RETURN(Json config, form.PeftConfig(options.base, task));
  const std::vector<std::string> head = HeadModules(layout);
  // PEFT looks for a head in the folder where the type of task has one.
  const bool lacks_head = head.empty() && !task.head.empty();
  config["task_type"] = task.peft_task_type.empty() || lacks_head ? Json() : Json(task.peft_task_type);
  config["modules_to_save"] = head.empty() ? Json() : Json(head);
  config["base_model_name_or_path"] = options.base_name;
  config["inference_mode"] = true;
  config["auto_mapping"] = nullptr;
  config["revision"] = nullptr;
  return config;
}

// `from` may be unaligned.
void Widen(std::span<const std::byte> from, float (*widen)(uint16_t), std::span<float> to) {
  for (size_t i = 0; i < to.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, from.data() + i * sizeof(bits), sizeof(bits));
    to[i] = widen(bits);
  }
}

absl::Status ReadTensor(const SafetensorView& view, const TensorSpec& spec, const std::string& key,
                        std::span<float> to) {
  if (view.shape != spec.shape) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", key, " has shape [", absl::StrJoin(view.shape, ", "),
                                                   "], expected [", absl::StrJoin(spec.shape, ", "),
                                                   "]; use the job's form config and labels"));
  }
  if (view.dtype == "F32") {
    std::memcpy(to.data(), view.data.data(), view.data.size());
  } else if (view.dtype == "F16") {
    Widen(view.data, FromF16, to);
  } else if (view.dtype == "BF16") {
    Widen(view.data, FromBf16, to);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", key, " has dtype ", view.dtype, ", expected F32, F16 or BF16"));
  }
  return absl::OkStatus();
}

absl::Status ReadTensors(const SafetensorsFile& file, const Keys& keys, Adapter* adapter) {
  std::set<std::string> read;
  for (const TensorSpec& spec : adapter->layout().tensors()) {
    const std::string key = keys(spec);
    const auto found = file.tensors().find(key);
    if (found == file.tensors().end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("no tensor ", key, "; use the job's target modules, and its head (all of it) or none"));
    }
    WEFT_RETURN_IF_ERROR(ReadTensor(found->second, spec, key, adapter->tensor(spec)));
    read.insert(key);
  }
  for (const auto& [name, view] : file.tensors()) {
    if (read.contains(name)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, " has no place in the job's adapter; use the folder's target modules and head"));
  }
  return absl::OkStatus();
}

absl::StatusOr<SafetensorsFile> OpenTensors(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kTensorFile);
  if (std::filesystem::exists(path)) return SafetensorsFile::Open(path);
  return absl::NotFoundError(
      absl::StrCat(folder, ": no ", kTensorFile, " there; save the adapter with safe_serialization"));
}

absl::StatusOr<Json> ReadConfigFile(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/", kConfigFile);
  if (!std::filesystem::exists(path)) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": no ", kConfigFile, " there; expected a Hugging Face PEFT folder"));
  }
  WEFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

absl::Status WriteFolder(const std::string& folder, const Adapter& adapter, const Form& form,
                         const PeftFolderOptions& options) {
  WEFT_ASSIGN_OR_RETURN(const TaskDescription* task, FindTask(options.base, options.task.type()));
  WEFT_ASSIGN_OR_RETURN(const Json config, MakePeftConfig(adapter.layout(), form, *task, options));
  const Json facts = {{"format", "weft-adapter"},
                      {"version", 1},
                      {"task", options.task.type()},
                      {"labels", std::vector<std::string>(options.task.labels().begin(), options.task.labels().end())},
                      {"base_hash", options.base_hash},
                      {"layout_hash", adapter.layout().hash()}};
  const Keys keys(form, options.base, *task);
  std::vector<SafetensorToWrite> tensors;
  for (const TensorSpec& spec : adapter.layout().tensors()) {
    tensors.push_back({keys(spec), "F32", spec.shape, std::as_bytes(adapter.tensor(spec))});
  }
  WEFT_RETURN_IF_ERROR(MakeDirectories(folder));
  // transformers and PEFT look for "format".
  const std::map<std::string, std::string> metadata = {
      {"format", "pt"}, {"weft", facts.dump(-1, ' ', false, Json::error_handler_t::replace)}};
  WEFT_RETURN_IF_ERROR(WriteSafetensors(absl::StrCat(folder, "/", kTensorFile), tensors, metadata));
  WEFT_RETURN_IF_ERROR(WriteFileAtomically(absl::StrCat(folder, "/", kWeftFile), Dump(facts)));
  return WriteFileAtomically(absl::StrCat(folder, "/", kConfigFile), Dump(config));
}

// The task of a folder that another than we have written.
absl::StatusOr<proto::TaskConfig> GuessTask(const Json& peft_config, const proto::AdapterConfig& adapter,
                                            const SafetensorsFile& file, const BaseDescription& base) {
  const Json type = peft_config.value("task_type", Json());
  const std::string wanted = type.is_string() ? type.get<std::string>() : "";
  proto::TaskConfig task;
  int fitting = 0;
  for (const auto& [name, description] : base.tasks) {
    if (description.peft_task_type != wanted) continue;
    task.set_type(name);
    ++fitting;
  }
  if (fitting != 1) {
    return absl::InvalidArgumentError(absl::StrCat(kConfigFile, ": \"task_type\" is ", type.dump(), ", which fits ",
                                                   fitting, " tasks of a base of model_type \"", base.model_type,
                                                   "\", expected one; set it to the task's, SEQ_CLS or CAUSAL_LM"));
  }
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(adapter));
  WEFT_ASSIGN_OR_RETURN(const TaskDescription* description, FindTask(base, task.type()));
  for (const HeadModule& module : description->head) {
    const auto found = file.tensors().find(form->PeftName(module.name + ".weight", kRoleHead));
    if (module.out_features != 0 || found == file.tensors().end() || found->second.shape.empty()) continue;
    for (int64_t i = 0; i < found->second.shape[0]; ++i) task.add_labels(absl::StrCat("LABEL_", i));
  }
  return task;
}

absl::Status ReadFacts(const std::string& path, proto::TaskConfig* task_config, std::string* base_hash) {
  WEFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const Json facts = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto text_of = [&](const char* key) { return facts.is_object() ? facts.value(key, Json()) : Json(); };
  const Json task = text_of("task"), hash = text_of("base_hash"), labels = text_of("labels");
  bool good = task.is_string() && hash.is_string() && labels.is_array();
  if (good) {
    for (const Json& label : labels) good = good && label.is_string();
  }
  if (!good) {
    return absl::InvalidArgumentError(absl::StrCat(
        path,
        ": expected task, base_hash and labels, as weft writes them; export the adapter again or remove the file"));
  }
  task_config->set_type(task.get<std::string>());
  for (const Json& label : labels) task_config->add_labels(label.get<std::string>());
  *base_hash = hash.get<std::string>();
  return absl::OkStatus();
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

absl::StatusOr<Adapter> ReadPeftFolder(const std::string& folder, std::shared_ptr<const Layout> layout,
                                       const BaseDescription& base, const std::string& task_type) {
  WEFT_ASSIGN_OR_RETURN(const proto::AdapterConfig config, ReadPeftConfig(folder));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Form> form, CreateForm(config));
  WEFT_ASSIGN_OR_RETURN(const TaskDescription* task, FindTask(base, task_type));
  WEFT_ASSIGN_OR_RETURN(const SafetensorsFile file, OpenTensors(folder));
  Adapter adapter(std::move(layout));
  if (const absl::Status status = ReadTensors(file, Keys(*form, base, *task), &adapter); !status.ok()) {
    return Under(absl::StrCat(folder, "/", kTensorFile), status);
  }
  return adapter;
}

absl::StatusOr<proto::AdapterConfig> ReadPeftConfig(const std::string& folder) {
  WEFT_ASSIGN_OR_RETURN(const Json json, ReadConfigFile(folder));
  absl::StatusOr<proto::AdapterConfig> config = FormFromPeftConfig(json);
  if (!config.ok()) return Under(folder, config.status());
  return config;
}

absl::StatusOr<LoadedPeftFolder> LoadPeftFolder(const std::string& folder, const BaseDescription& base) {
  WEFT_ASSIGN_OR_RETURN(const proto::AdapterConfig config, ReadPeftConfig(folder));
  proto::TaskConfig task;
  std::string base_hash;
  if (const std::string path = absl::StrCat(folder, "/", kWeftFile); std::filesystem::exists(path)) {
    WEFT_RETURN_IF_ERROR(ReadFacts(path, &task, &base_hash));
  } else {
    WEFT_ASSIGN_OR_RETURN(const Json json, ReadConfigFile(folder));
    WEFT_ASSIGN_OR_RETURN(const SafetensorsFile file, OpenTensors(folder));
    absl::StatusOr<proto::TaskConfig> guess = GuessTask(json, config, file, base);
    if (!guess.ok()) return Under(folder, guess.status());
    task = *std::move(guess);
  }
  absl::StatusOr<std::shared_ptr<const Layout>> layout = MakeLayout(config, task, base);
  if (!layout.ok()) return Under(folder, layout.status());
  WEFT_ASSIGN_OR_RETURN(Adapter adapter, ReadPeftFolder(folder, *std::move(layout), base, task.type()));
  return LoadedPeftFolder{config, task, base_hash, std::move(adapter)};
}

}  // namespace weft
