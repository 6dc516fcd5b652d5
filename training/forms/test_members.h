#ifndef WEFT_TRAINING_FORMS_TEST_MEMBERS_H_
#define WEFT_TRAINING_FORMS_TEST_MEMBERS_H_

// For tests of forms: members, and what their rows come to.

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "training/forms/form.h"

namespace weft {

inline MemberTensor Trained(const at::Tensor& value) {
  MemberTensor tensor = {.value = value.detach().clone().requires_grad_(), .gradient = at::zeros_like(value)};
  tensor.value.mutable_grad() = tensor.gradient;
  return tensor;
}

inline MemberTensor Constant(const at::Tensor& value) { return {.value = value.detach().clone(), .gradient = {}}; }

inline LinearModule LinearOf(const std::string& name, int64_t out, int64_t in) {
  LinearModule module;
  module.name = name;
  module.out_features = out;
  module.in_features = in;
  return module;
}

inline Segments SegmentsOf(const std::vector<int64_t>& rows) {
  Segments segments;
  for (const int64_t count : rows) segments.offsets.push_back(segments.offsets.back() + count);
  return segments;
}

// One member's rows of a matrix.
inline at::Tensor RowsOf(const at::Tensor& matrix, const Segments& segments, int64_t member) {
  return matrix.slice(0, segments.begin(member), segments.end(member));
}

inline proto::AdapterConfig FormConfig(const std::string& form, const std::string& json) {
  proto::AdapterConfig config;
  config.set_form(form);
  EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json, config.mutable_config()).ok());
  return config;
}

// The largest difference over the largest value.
inline double Difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.to(at::kDouble)).abs().max() / b.to(at::kDouble).abs().max()).item<double>();
}

}  // namespace weft

#endif  // WEFT_TRAINING_FORMS_TEST_MEMBERS_H_
