#ifndef WEFT_ADAPTERS_MERGE_FOLDER_H_
#define WEFT_ADAPTERS_MERGE_FOLDER_H_

// Files of the two Hugging Face folders that merging (adapters/merge.h) reads and writes.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/safetensors.h"
#include "nlohmann/json.hpp"
#include "proto/job.pb.h"

namespace weft {

struct BaseFolder {
  std::string config_json;
  std::vector<std::string> names;  // of files with weights
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  bool has_index = false;
};

// NOT_FOUND: no config.json, no weights. Weights are model.safetensors, or else every *.safetensors.
absl::StatusOr<BaseFolder> OpenBaseFolder(const std::string& folder);

// FAILED_PRECONDITION: something is there.
absl::Status CheckOutFolder(const std::string& folder);

// All files, of subfolders too, but weights of any format, their index, and config.json.
absl::Status CopyOtherFiles(const std::string& from, const std::string& to);

absl::Status WriteIndex(const std::string& folder, const std::map<std::string, std::string>& file_of_tensor);

// `config` with the labels and the class of a task model with a head; nullptr: as it is.
absl::Status WriteMergedConfig(const std::string& folder, nlohmann::json config, const proto::TaskConfig* head);

}  // namespace weft

#endif  // WEFT_ADAPTERS_MERGE_FOLDER_H_
