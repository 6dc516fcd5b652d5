#include "adapters/merge_folder.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kConfig[] = "config.json";
constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";

std::string Dump(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

// Weights that would not be the merged ones.
bool HoldsWeights(const fs::path& path) {
  constexpr std::array kEndings = {".safetensors", ".bin",  ".pt",   ".pth", ".ckpt",  ".h5",
                                   ".msgpack",     ".onnx", ".gguf", ".ot",  ".tflite"};
  const std::string name = path.filename().string();
  return absl::EndsWith(name, ".index.json") || std::any_of(kEndings.begin(), kEndings.end(), [&](const char* ending) {
           return absl::EndsWith(name, ending);
         });
}

// "BertForSequenceClassification" of "BertForMaskedLM", "BertModel", "GPT2LMHeadModel"; "" of a class of another style.
std::string ClassForTask(const std::string& given, const std::string& task_type) {
  const std::string ending =
      task_type == "image_classification" ? "ForImageClassification" : "ForSequenceClassification";
  for (const char* part : {"For", "LMHead", "Model"}) {
    if (const size_t at = given.find(part); at != std::string::npos && at > 0) return given.substr(0, at) + ending;
  }
  return "";
}

}  // namespace

absl::StatusOr<BaseFolder> OpenBaseFolder(const std::string& folder) {
  const auto path = [&](const std::string& name) { return absl::StrCat(folder, "/", name); };
  const auto missing = [&](const char* what) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": no ", what, " there; expected the Hugging Face folder of a base"));
  };
  if (!fs::exists(path(kConfig))) return missing(kConfig);
  BaseFolder base;
  WEFT_ASSIGN_OR_RETURN(base.config_json, ReadFile(path(kConfig)));
  base.has_index = fs::exists(path(kIndex));
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".safetensors") base.names.push_back(entry.path().filename().string());
  }
  if (base.names.empty()) return missing("*.safetensors");
  std::sort(base.names.begin(), base.names.end());
  if (!base.has_index && std::find(base.names.begin(), base.names.end(), kSingle) != base.names.end()) {
    base.names = {kSingle};
  }
  for (const std::string& name : base.names) {
    WEFT_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path(name)));
    base.files.push_back(std::make_unique<SafetensorsFile>(std::move(file)));
  }
  return base;
}

absl::Status CheckOutFolder(const std::string& folder) {
  std::error_code error;
  if (!fs::exists(folder, error) || (fs::is_directory(folder, error) && fs::is_empty(folder, error))) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat(folder, ": found something there, expected a folder that is missing or empty; choose another"));
}

absl::Status CopyOtherFiles(const std::string& from, const std::string& to) {
  WEFT_RETURN_IF_ERROR(MakeDirectories(to));
  const fs::path out = fs::absolute(to).lexically_normal();
  std::error_code error;
  auto entry = fs::recursive_directory_iterator(from, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    const fs::path& path = entry->path();
    // Downloads' own records, and the folder that is written when it lies in the base's.
    if (entry->is_directory() &&
        (path.filename().string().starts_with(".") || fs::absolute(path).lexically_normal() == out)) {
      entry.disable_recursion_pending();
    }
    if (!entry->is_regular_file() || HoldsWeights(path)) continue;
    const fs::path relative = path.lexically_relative(from);
    if (relative == kConfig) continue;
    fs::create_directories((out / relative).parent_path(), error);
    if (!error) fs::copy_file(path, out / relative, error);
    if (error) break;
  }
  if (!error) return absl::OkStatus();
  return absl::ErrnoToStatus(error.value(), absl::StrCat("can't copy the files of ", from, " to ", to));
}

absl::Status WriteIndex(const std::string& folder, const std::map<std::string, std::string>& file_of_tensor) {
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    WEFT_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(entry.path().string()));
    for (const auto& [name, view] : file.tensors()) bytes += view.data.size();
  }
  const Json index = {{"metadata", {{"total_size", bytes}}}, {"weight_map", file_of_tensor}};
  return WriteFileAtomically(absl::StrCat(folder, "/", kIndex), Dump(index));
}

absl::Status WriteMergedConfig(const std::string& folder, Json config, const proto::TaskConfig* head) {
  if (head != nullptr) {
    Json names = Json::object(), ids = Json::object();
    for (int i = 0; i < head->labels_size(); ++i) {
      names[absl::StrCat(i)] = head->labels(i);
      ids[head->labels(i)] = i;
    }
    config["id2label"] = names;
    config["label2id"] = ids;
    config.erase("num_labels");  // readers count id2label
    const Json given = config.value("architectures", Json());
    if (given.is_array() && !given.empty() && given[0].is_string()) {
      const std::string task_class = ClassForTask(given[0].get<std::string>(), head->type());
      if (task_class.empty()) {
        config.erase("architectures");
      } else {
        config["architectures"] = {task_class};
      }
    }
  }
  return WriteFileAtomically(absl::StrCat(folder, "/", kConfig), Dump(config));
}

}  // namespace weft
