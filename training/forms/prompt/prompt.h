#ifndef WEFT_TRAINING_FORMS_PROMPT_PROMPT_H_
#define WEFT_TRAINING_FORMS_PROMPT_PROMPT_H_

#include <memory>

#include "absl/status/statusor.h"
#include "proto/job.pb.h"
#include "training/forms/form.h"

namespace weft {

// Trained tokens in every row: "prompt_embeddings" [tokens, hidden] before the tokens of texts (Lester et al., arXiv
// 2104.08691) or behind the class token of images (Jia et al., arXiv 2203.12119); deep ones of images have in
// "deep_prompt_embeddings" [layers - 1, tokens, hidden] what replaces them in each further layer. INVALID_ARGUMENT: a
// config that adapters/forms/prompt refuses.
absl::StatusOr<std::unique_ptr<TorchForm>> CreateTorchPrompt(const proto::AdapterConfig& config);

}  // namespace weft

#endif  // WEFT_TRAINING_FORMS_PROMPT_PROMPT_H_
