#ifndef WEFT_AGGREGATORS_CORE_TESTING_VALUES_H_
#define WEFT_AGGREGATORS_CORE_TESTING_VALUES_H_

// Adapters small enough to compute with by hand. Testonly.

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapters/adapter.h"

namespace weft::aggregators::testing {

// One module of rank 1 from 2 inputs to 3 outputs, and a head of one value.
inline std::shared_ptr<const Layout> OneModule() {
  return *Layout::Create({{.name = "m.lora_A.weight", .role = "lora_a", .shape = {1, 2}},
                          {.name = "m.lora_B.weight", .role = "lora_b", .shape = {3, 1}},
                          {.name = "head.bias", .role = "head", .shape = {1}}});
}

// Tensors of forms that have no factors.
inline std::shared_ptr<const Layout> NoFactors() {
  return *Layout::Create({{.name = "m.ssf_scale", .role = "ssf_scale", .shape = {3}},
                          {.name = "prompt_embeddings", .role = "prompt", .shape = {2, 2}},
                          {.name = "head.bias", .role = "head", .shape = {1}}});
}

// R between two fixed factors.
inline std::shared_ptr<const Layout> FixedFactors() {
  return *Layout::Create({{.name = "m.lora_sb_A.weight", .role = "fixed.lora_a", .shape = {2, 3}},
                          {.name = "m.lora_sb_R.weight", .role = "lora_r", .shape = {2, 2}},
                          {.name = "m.lora_sb_B.weight", .role = "fixed.lora_b", .shape = {4, 2}},
                          {.name = "head.bias", .role = "head", .shape = {1}}});
}

// Zeros but for the tensors named.
inline Adapter With(std::shared_ptr<const Layout> layout,
                    const std::vector<std::pair<std::string, std::vector<float>>>& values) {
  Adapter adapter(std::move(layout));
  for (const auto& [name, numbers] : values) {
    const std::span<float> to = adapter.tensor(*adapter.layout().Find(name));
    std::copy(numbers.begin(), numbers.end(), to.begin());
  }
  return adapter;
}

inline std::vector<float> ValuesOf(const Adapter& adapter, const std::string& name) {
  const std::span<const float> values = adapter.tensor(*adapter.layout().Find(name));
  return {values.begin(), values.end()};
}

}  // namespace weft::aggregators::testing

#endif  // WEFT_AGGREGATORS_CORE_TESTING_VALUES_H_
