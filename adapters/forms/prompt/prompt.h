#ifndef WEFT_ADAPTERS_FORMS_PROMPT_PROMPT_H_
#define WEFT_ADAPTERS_FORMS_PROMPT_PROMPT_H_

// Trained tokens in every row. Of texts they stand before all others (prompt tuning, Lester et al., arXiv 2104.08691,
// section 2), of images behind the class token (VPT, Jia et al., arXiv 2203.12119, equations 4 to 7): shallow in what
// the first layer reads, deep in what each layer reads. Tensors, all of role prompt: "prompt_embeddings" [tokens,
// hidden], and of the deep form "deep_prompt_embeddings" [layers - 1, tokens, hidden] for the layers after the first.

#include <google/protobuf/struct.pb.h>

#include <memory>

#include "absl/status/statusor.h"
#include "adapters/forms/form.h"
#include "nlohmann/json.hpp"

namespace weft {

inline constexpr char kPromptPeftType[] = "PROMPT_TUNING";
// Of images: Hugging Face PEFT knows no such form; folders of it are this system's own.
inline constexpr char kVptPeftType[] = "WEFT_VPT";

// INVALID_ARGUMENT: see adapters/forms/prompt/prompt.proto. Tensors refuses a base that is no transformer, the deep
// form of texts, and so many tokens that a text finds no position behind them. Texts start from normal(0,
// initializer_range of the base), images from uniform(-v, v) with v = sqrt(6 / (channels * patch^2 + hidden)), as VPT's
// code does.
absl::StatusOr<std::unique_ptr<Form>> CreatePrompt(const google::protobuf::Struct& config);

// The config of a folder of either type. INVALID_ARGUMENT naming the key: a field that is missing or of another kind,
// tokens for a decoder apart (encoder-decoder models), anything unknown that is switched on.
absl::StatusOr<google::protobuf::Struct> PromptFromPeft(const nlohmann::json& peft_config);

}  // namespace weft

#endif  // WEFT_ADAPTERS_FORMS_PROMPT_PROMPT_H_
