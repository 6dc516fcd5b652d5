#ifndef WEFT_ADAPTERS_FAMILIES_TESTING_DESCRIBE_H_
#define WEFT_ADAPTERS_FAMILIES_TESTING_DESCRIBE_H_

// What the tests of families share.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "adapters/base.h"
#include "nlohmann/json.hpp"

namespace weft {

using Describe = absl::StatusOr<BaseDescription> (*)(nlohmann::json config);

inline void ExpectRefused(Describe describe, const nlohmann::json& config, const std::string& why) {
  const absl::Status status = describe(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << why;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(why));
}

// The config with this key set to a value that must be refused.
inline void ExpectRefusedWith(Describe describe, nlohmann::json config, const char* key, nlohmann::json value,
                              const std::string& why) {
  config[key] = std::move(value);
  ExpectRefused(describe, config, why);
}

// Each of these sizes, missing or bad, is refused by name.
inline void ExpectSizesRefused(Describe describe, const nlohmann::json& config, const std::vector<const char*>& keys) {
  for (const char* key : keys) {
    nlohmann::json missing = config;
    missing.erase(key);
    const std::string expected = absl::StrCat("\"", key, "\" must be an integer from 1 to");
    ExpectRefused(describe, missing, expected);
    for (const nlohmann::json& bad : std::vector<nlohmann::json>{0, -1, 1.5, "8", ~0ull, (1ll << 30) + 1, nullptr}) {
      ExpectRefusedWith(describe, config, key, bad, expected);
      ExpectRefusedWith(describe, config, key, bad, absl::StrCat("found ", bad.dump()));
    }
  }
}

// "name OUTxIN", with "+" where there is a bias.
inline std::string Text(const LinearModule& linear) {
  return absl::StrCat(linear.name, " ", linear.out_features, "x", linear.in_features, linear.bias ? "+" : "");
}
inline std::vector<std::string> LinearTexts(const BaseDescription& base) {
  std::vector<std::string> texts;
  for (const LinearModule& linear : base.linears) texts.push_back(Text(linear));
  return texts;
}
inline std::vector<std::string> HeadTexts(const TaskDescription& task) {
  std::vector<std::string> texts;
  for (const HeadModule& head : task.head) {
    texts.push_back(absl::StrCat(head.name, " ", head.out_features, "x", head.in_features, head.bias ? "+" : ""));
  }
  return texts;
}
inline std::vector<std::string> NormNames(const BaseDescription& base) {
  std::vector<std::string> names;
  for (const NormModule& norm : base.norms) names.push_back(norm.name);
  return names;
}

// Of the bare model with the modules that `base` has, lm_head where it is one of its own.
inline int64_t Parameters(const BaseDescription& base) {
  const Transformer& t = *base.transformer;
  int64_t sum = 0;
  for (const LinearModule& m : base.linears) sum += m.out_features * m.in_features + (m.bias ? m.out_features : 0);
  for (const NormModule& m : base.norms) sum += m.width * (m.bias ? 2 : 1);
  if (!t.word_embeddings.empty()) sum += t.vocabulary * t.hidden;
  if (!t.position_embeddings.empty()) sum += t.position_embedding_rows * t.hidden;
  if (!t.token_type_embeddings.empty()) sum += t.token_types * t.hidden;
  if (!t.lm_head.empty()) sum += t.vocabulary * t.hidden;
  if (t.patches.has_value()) {
    sum += t.hidden * (2 + t.patches->channels * t.patches->patch_size * t.patches->patch_size);
  }
  return sum;
}

}  // namespace weft

#endif  // WEFT_ADAPTERS_FAMILIES_TESTING_DESCRIBE_H_
