#include "training/cross_entropy.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

namespace weft {

LossAndGradient MeanCrossEntropy(const at::Tensor& logits, const at::Tensor& labels) {
  const at::Tensor x = logits.to(at::kCPU).contiguous(), y = labels.to(at::kCPU).contiguous();
  const int64_t rows = x.size(0), width = x.size(1);
  const at::Tensor gradient = at::empty({rows, width}, at::TensorOptions(at::kFloat));
  const float scale = 1.0f / static_cast<float>(rows);
  double sum = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = x.const_data_ptr<float>() + i * width;
    float* out = gradient.mutable_data_ptr<float>() + i * width;
    const int64_t label = y.const_data_ptr<int64_t>()[i];
    const float largest = *std::max_element(row, row + width);
    float total = 0;
    for (int64_t j = 0; j < width; ++j) total += out[j] = std::exp(row[j] - largest);
    for (int64_t j = 0; j < width; ++j) out[j] *= scale / total;
    out[label] -= scale;
    sum += std::log(total) - (row[label] - largest);
  }
  return {.mean = sum / static_cast<double>(rows), .gradient = gradient.to(logits.device())};
}

}  // namespace weft
