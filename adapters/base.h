#ifndef WEFT_ADAPTERS_BASE_H_
#define WEFT_ADAPTERS_BASE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace weft {

// One linear module of a base, with weight [out_features, in_features].
struct LinearModule {
  std::string name;  // full path in the task model, "bert.encoder.layer.0.attention.self.query"
  int64_t out_features;
  int64_t in_features;
};

// What can be known of a base from its config.json alone: enough to lay out an adapter without loading weights.
struct BaseDescription {
  std::string model_type;  // "bert"
  nlohmann::json config;   // parsed config.json
  int64_t hidden_size = 0;
  std::vector<LinearModule> linears;  // in layer order; the head is not among them
  std::string head_name;              // "classifier"
  double initializer_range = 0;       // standard deviation of a new head's weights
};

// From the text of config.json. INVALID_ARGUMENT: not JSON, missing or bad field, model_type without a family (lists
// the known ones). Each family is a folder under adapters/families.
absl::StatusOr<BaseDescription> DescribeBase(std::string_view config_json);

// Identity of a base folder: lower-case hex SHA-256 over "config.json" and every *.safetensors in name order, each as
// name and a zero byte, length (8 bytes, little-endian), content. NOT_FOUND when config.json or weights are missing.
absl::StatusOr<std::string> HashBase(const std::string& folder);

}  // namespace weft

#endif  // WEFT_ADAPTERS_BASE_H_
