#include "adapters/base.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/families/bert/bert.h"
#include "adapters/families/distilbert/distilbert.h"
#include "adapters/families/gpt2/gpt2.h"
#include "adapters/families/llama/llama.h"
#include "adapters/families/mistral/mistral.h"
#include "adapters/families/mlp/mlp.h"
#include "adapters/families/qwen2/qwen2.h"
#include "adapters/families/qwen3/qwen3.h"
#include "adapters/families/roberta/roberta.h"
#include "adapters/families/vit/vit.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/status_macros.h"

namespace weft {
namespace {

struct NamedFamily {
  const char* model_type;
  absl::StatusOr<BaseDescription> (*describe)(nlohmann::json config);
};

// A family is a folder here and one line in this table.
constexpr NamedFamily kFamilies[] = {
    {"bert", DescribeBert},   {"distilbert", DescribeDistilbert}, {"gpt2", DescribeGpt2},
    {"llama", DescribeLlama}, {"mistral", DescribeMistral},       {"mlp", DescribeMlp},
    {"qwen2", DescribeQwen2}, {"qwen3", DescribeQwen3},           {"roberta", DescribeRoberta},
    {"vit", DescribeVit},
};

// Names of the folder's *.safetensors in byte order.
absl::StatusOr<std::vector<std::string>> WeightFiles(const std::string& folder) {
  std::error_code error;
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().filename().string());
  }
  if (error) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": ", error.message(), "; expected the Hugging Face folder of a base"));
  }
  std::sort(names.begin(), names.end());
  return names;
}

static_assert(std::endian::native == std::endian::little);  // the length below

absl::Status HashFile(const std::string& folder, const std::string& name, Sha256* sha) {
  WEFT_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(absl::StrCat(folder, "/", name)));
  const uint64_t size = file.bytes().size();
  sha->Update(name.c_str(), name.size() + 1);
  sha->Update(&size, sizeof(size));
  sha->Update(file.bytes().data(), size);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BaseDescription> DescribeBase(std::string_view config_json) {
  nlohmann::json config = nlohmann::json::parse(config_json, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return absl::InvalidArgumentError("config.json: found no JSON object, expected the config.json of a base");
  }
  const auto type = config.find("model_type");
  if (type == config.end() || !type->is_string()) {
    return absl::InvalidArgumentError("config.json: \"model_type\" is missing, expected a name as \"bert\"");
  }
  const std::string model_type = type->get<std::string>();
  std::string known;
  for (const NamedFamily& family : kFamilies) {
    if (model_type == family.model_type) return family.describe(std::move(config));
    absl::StrAppend(&known, known.empty() ? "" : ", ", family.model_type);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("config.json: no family for model_type \"", model_type, "\"; known: ", known));
}

absl::StatusOr<const TaskDescription*> FindTask(const BaseDescription& base, const std::string& type) {
  const auto found = base.tasks.find(type);
  if (found != base.tasks.end()) return &found->second;
  std::string known;
  for (const auto& [name, task] : base.tasks) absl::StrAppend(&known, known.empty() ? "" : ", ", name);
  return absl::InvalidArgumentError(absl::StrCat("task.type: a base of model_type \"", base.model_type, "\" does no \"",
                                                 type, "\"; it does ", known));
}

absl::StatusOr<std::string> HashBase(const std::string& folder) {
  WEFT_ASSIGN_OR_RETURN(std::vector<std::string> names, WeightFiles(folder));
  const auto missing = [&](const char* what) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": no ", what, " there; expected the Hugging Face folder of a base"));
  };
  if (!std::filesystem::exists(absl::StrCat(folder, "/config.json"))) return missing("config.json");
  if (names.empty()) return missing("*.safetensors");
  names.insert(names.begin(), "config.json");
  Sha256 sha;
  for (const std::string& name : names) WEFT_RETURN_IF_ERROR(HashFile(folder, name, &sha));
  return ToHex(sha.Finish());
}

}  // namespace weft
