#ifndef WEFT_ADAPTERS_MERGE_H_
#define WEFT_ADAPTERS_MERGE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/job.pb.h"

namespace weft {

struct MergeOptions {
  std::string base;     // Hugging Face folder
  std::string adapter;  // PEFT folder, or one of ours
  std::string out;      // folder to make; must be missing or empty
};

struct MergeResult {
  proto::TaskConfig task;
  int tensors = 0;  // of the base that were changed
};

// Writes a copy of a base whose weights compute what the base does with the adapter: `transformers` opens it alone.
// Each changed tensor is computed in fp32 and rounded once to its own dtype; all others, and all files that hold no
// weights, are copied as they are. A head is written under its name in place of the checkpoint's, in the dtype of its
// first float tensor, and config.json gets its labels (id2label, label2id) and its class (architectures). One tensor at
// a time is held in memory. INVALID_ARGUMENT: an adapter of another base (weft.json) or of tensors that belong to no
// module (prompts), a form that can't take a module's place (Form::Merge), a checkpoint without the module, values that
// the dtype can't hold. FAILED_PRECONDITION: something is in `out`. After an error nothing is left there.
absl::StatusOr<MergeResult> MergeAdapter(const MergeOptions& options);

}  // namespace weft

#endif  // WEFT_ADAPTERS_MERGE_H_
