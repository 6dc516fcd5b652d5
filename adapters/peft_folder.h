#ifndef WEFT_ADAPTERS_PEFT_FOLDER_H_
#define WEFT_ADAPTERS_PEFT_FOLDER_H_

// Hugging Face PEFT folders: adapter_config.json + adapter_model.safetensors, as `peft.PeftModel.from_pretrained` loads them.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "proto/job.pb.h"

namespace weft {

struct PeftFolderOptions {
  proto::AdapterConfig adapter;
  proto::TaskConfig task;
  std::string base_name;   // base_model_name_or_path
  std::string base_hash;   // kept under "weft" metadata of the safetensors file
};

// Writes the two files (and weft.json with label names, base hash, round facts in `extra`) into `folder`, made when missing; each by rename.
absl::Status WritePeftFolder(const std::string& folder, const Adapter& adapter, const PeftFolderOptions& options);

// Values of a PEFT folder in `layout`'s order. Refuses a tensor that is missing, surplus, or of another shape or dtype (F32; F16 and BF16 are
// widened), naming it; and adapters whose base was changed (PiSSA, OLoRA, CorDA initialisation), or that use DoRA or rsLoRA or a bias.
absl::StatusOr<Adapter> ReadPeftFolder(const std::string& folder, std::shared_ptr<const Layout> layout);

// The form config a folder was made with.
absl::StatusOr<proto::AdapterConfig> ReadPeftConfig(const std::string& folder);

}  // namespace weft

#endif  // WEFT_ADAPTERS_PEFT_FOLDER_H_
