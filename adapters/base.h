#ifndef WEFT_ADAPTERS_BASE_H_
#define WEFT_ADAPTERS_BASE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/transformer.h"
#include "nlohmann/json.hpp"

namespace weft {

// One linear module of a base: y = x W^T + b, with W [out_features, in_features] and b [out_features].
struct LinearModule {
  std::string name;  // full path in the task model, "bert.encoder.layer.0.attention.self.query"
  int64_t out_features = 0;
  int64_t in_features = 0;
  bool bias = true;
  // How checkpoints hold it: the path there, when another than `name`; and whether W lies as [in, out] (GPT-2's
  // Conv1D).
  std::string stored;
  bool stored_transposed = false;
};

// One normalisation of a base, over its last dimension.
struct NormModule {
  std::string name;
  int64_t width = 0;
  bool bias = true;  // RMSNorm has none
  std::string stored;
};

// One linear module of a new head: trained and sent with the adapter, in role "head".
struct HeadModule {
  std::string name;          // "classifier", "classifier.out_proj"
  int64_t out_features = 0;  // 0: one for each label
  int64_t in_features = 0;
  bool bias = true;
  Activation activation = Activation::kNone;  // after it
};

// What a base does for one type of task.
struct TaskDescription {
  // Of a row's last hidden states: the first token's, the last one's, their mean, each one's.
  enum class Read { kFirst, kLast, kMean, kEach };
  Read read = Read::kFirst;
  // Index into BaseDescription::linears of a module with tanh after it, between what is read and the head; -1: none.
  int pooler = -1;
  // In order; empty where the task trains no head (causal_lm, sentence_embedding).
  std::vector<HeadModule> head;
  // task_type of PEFT; empty where PEFT has none (image_classification).
  std::string peft_task_type;
  // Whether the task model of transformers holds the bare one under BaseDescription::prefix. Not so where the bare one
  // is used itself (sentence_embedding): PEFT's tensor names lack the prefix then.
  bool prefixed = true;
};

// What can be known of a base from its config.json alone: enough to lay out an adapter without loading weights, and to
// build the network over them.
struct BaseDescription {
  std::string model_type;  // "bert"
  nlohmann::json config;   // parsed config.json
  int64_t hidden_size = 0;
  // Of all names below in a task model ("bert."); checkpoints of the bare model lack it.
  std::string prefix;
  std::vector<LinearModule> linears;             // in the order in which they are computed; no head among them
  std::vector<NormModule> norms;                 // likewise
  std::map<std::string, TaskDescription> tasks;  // by TaskConfig.type
  double initializer_range = 0;                  // standard deviation of a new head's weights
  std::optional<Transformer> transformer;        // none for mlp
};

// From the text of config.json. INVALID_ARGUMENT: not JSON, missing or bad field, model_type without a family (lists
// the known ones), a choice that the family's network does not know. Each family is a folder under adapters/families.
absl::StatusOr<BaseDescription> DescribeBase(std::string_view config_json);

// INVALID_ARGUMENT (lists those it does): a base that does not do such tasks.
absl::StatusOr<const TaskDescription*> FindTask(const BaseDescription& base, const std::string& type);

// Identity of a base folder: lower-case hex SHA-256 over "config.json" and every *.safetensors in name order, each as
// name and a zero byte, length (8 bytes, little-endian), content. NOT_FOUND when config.json or weights are missing.
absl::StatusOr<std::string> HashBase(const std::string& folder);

}  // namespace weft

#endif  // WEFT_ADAPTERS_BASE_H_
