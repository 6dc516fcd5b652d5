#include "adapters/families/mlp/mlp.h"

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/families/fields.h"
#include "common/status_macros.h"

namespace weft {
namespace {

absl::StatusOr<std::vector<int64_t>> ReadSizes(const nlohmann::json& config) {
  const auto found = config.find("sizes");
  if (found == config.end() || !found->is_array() || found->size() < 3 || found->size() > kMostLayers) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: \"sizes\" must list 3 to ", kMostLayers,
                                                   " sizes (features, each hidden layer, labels), found ",
                                                   found == config.end() ? "nothing"
                                                   : found->is_array()   ? absl::StrCat(found->size())
                                                                         : Shown(*found)));
  }
  std::vector<int64_t> sizes;
  for (const nlohmann::json& size : *found) {
    // A number beyond int64 is kept as unsigned, and would turn negative.
    const int64_t value = size.is_number_integer() ? size.get<int64_t>() : 0;
    if (value < 1 || value > kLargestSize) {
      return absl::InvalidArgumentError(
          absl::StrCat("config.json: \"sizes\" must be integers from 1 to ", kLargestSize, ", found ", Shown(size)));
    }
    sizes.push_back(value);
  }
  return sizes;
}

}  // namespace

absl::StatusOr<BaseDescription> DescribeMlp(nlohmann::json config) {
  BaseDescription base;
  WEFT_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, ReadSizes(config));
  const nlohmann::json activation = config.value("activation", nlohmann::json());
  if (activation != "relu") {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: \"activation\" must be \"relu\", found ", Shown(activation)));
  }
  WEFT_ASSIGN_OR_RETURN(base.initializer_range, ReadNumber(config, "initializer_range", 0.02));
  for (size_t i = 0; i + 2 < sizes.size(); ++i) {
    base.linears.push_back(
        {.name = absl::StrCat("layers.", i), .out_features = sizes[i + 1], .in_features = sizes[i], .stored = ""});
  }
  base.model_type = "mlp";
  base.hidden_size = sizes[sizes.size() - 2];
  base.config = std::move(config);
  TaskDescription task = {.head = {{.name = "head", .in_features = base.hidden_size}}, .peft_task_type = ""};
  base.tasks["image_classification"] = task;
  task.peft_task_type = "SEQ_CLS";
  base.tasks["sequence_classification"] = std::move(task);
  return base;
}

}  // namespace weft
