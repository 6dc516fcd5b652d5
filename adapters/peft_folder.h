#ifndef WEFT_ADAPTERS_PEFT_FOLDER_H_
#define WEFT_ADAPTERS_PEFT_FOLDER_H_

// Hugging Face PEFT folders: adapter_config.json + adapter_model.safetensors, as `peft.PeftModel.from_pretrained` loads
// them.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/base.h"
#include "proto/job.pb.h"

namespace weft {

struct PeftFolderOptions {
  proto::AdapterConfig adapter;
  proto::TaskConfig task;
  BaseDescription base;
  std::string base_name;  // base_model_name_or_path
  std::string base_hash;  // identity of the base (adapters/base.h)
};

// Writes the two files, and weft.json with what PEFT has no place for: task, label names in class order, base hash,
// layout hash (also kept as "weft" in the metadata of the safetensors file). Makes `folder` when missing; each file by
// rename, adapter_config.json last. Tensors have the names of the task's model: without the base's prefix where the
// bare model is used (TaskDescription::prefixed). A form that PEFT does not know is written as one that it does
// (Form::ForPeft), and as itself, for a warm start, in a folder of the form's name beneath; where PEFT has nothing like
// it, as itself under a peft_type of our own.
absl::Status WritePeftFolder(const std::string& folder, const Adapter& adapter, const PeftFolderOptions& options);

// Values of a PEFT folder for a task of this base in `layout`'s order. NOT_FOUND: a missing folder or file.
// INVALID_ARGUMENT naming it: a task that the base does not do, a tensor that is missing, surplus, or of another shape
// or dtype (F32; F16 and BF16 are widened), and a config that FormFromPeftConfig refuses: an initialisation that
// changed the base (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ), DoRA, a bias. alpha is no part of a layout: who needs the
// folder's, reads it by ReadPeftConfig.
absl::StatusOr<Adapter> ReadPeftFolder(const std::string& folder, std::shared_ptr<const Layout> layout,
                                       const BaseDescription& base, const std::string& task_type);

// The form config a folder was made with. Errors as above.
absl::StatusOr<proto::AdapterConfig> ReadPeftConfig(const std::string& folder);

// All of a folder, of PEFT or of ours, without knowing the job it comes from.
struct LoadedPeftFolder {
  proto::AdapterConfig config;
  // Of a folder without weft.json the type that the base has for its task_type, and as many labels as the head has
  // rows, called LABEL_0, LABEL_1 .. as in transformers.
  proto::TaskConfig task;
  std::string base_hash;  // empty without weft.json
  Adapter adapter;
};
// Errors as above, and INVALID_ARGUMENT: a weft.json without these facts, a task_type that fits no or more than one
// task of the base.
absl::StatusOr<LoadedPeftFolder> LoadPeftFolder(const std::string& folder, const BaseDescription& base);

}  // namespace weft

#endif  // WEFT_ADAPTERS_PEFT_FOLDER_H_
