#ifndef WEFT_ADAPTERS_PEFT_FOLDER_H_
#define WEFT_ADAPTERS_PEFT_FOLDER_H_

// Hugging Face PEFT folders: adapter_config.json + adapter_model.safetensors, as `peft.PeftModel.from_pretrained` loads
// them.

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
  std::string base_name;  // base_model_name_or_path
  std::string base_hash;  // identity of the base (adapters/base.h)
};

// Writes the two files, and weft.json with what PEFT has no place for: task, label names in class order, base hash,
// layout hash (also kept as "weft" in the metadata of the safetensors file). Makes `folder` when missing; each file by
// rename, adapter_config.json last.
// A form that PEFT does not know is written as one that it does (Form::ForPeft), and as itself, for a warm start, in a
// folder of the form's name beneath.
absl::Status WritePeftFolder(const std::string& folder, const Adapter& adapter, const PeftFolderOptions& options);

// Values of a PEFT folder in `layout`'s order. NOT_FOUND: a missing folder or file. INVALID_ARGUMENT naming it: a
// tensor that is missing, surplus, or of another shape or dtype (F32; F16 and BF16 are widened), and a config that
// FormFromPeftConfig refuses: an initialisation that changed the base (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ), DoRA,
// rsLoRA, a bias, rank or alpha patterns. alpha is no part of a layout: who needs the folder's, reads it by
// ReadPeftConfig.
absl::StatusOr<Adapter> ReadPeftFolder(const std::string& folder, std::shared_ptr<const Layout> layout);

// The form config a folder was made with. Errors as above.
absl::StatusOr<proto::AdapterConfig> ReadPeftConfig(const std::string& folder);

}  // namespace weft

#endif  // WEFT_ADAPTERS_PEFT_FOLDER_H_
