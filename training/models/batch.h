#ifndef WEFT_TRAINING_MODELS_BATCH_H_
#define WEFT_TRAINING_MODELS_BATCH_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "training/data/shard.h"

namespace weft {

// The rows of one step: of features, or of text. Rows of text lie one after another, without padding: linear layers see
// [tokens, hidden], and attention keeps the rows apart.
struct Batch {
  at::Tensor labels;    // [rows] int64, on the device
  at::Tensor features;  // [rows, width] fp32, on the device; undefined for text
  // Undefined for features:
  at::Tensor ids;        // [tokens] int64, on the device
  at::Tensor positions;  // [tokens] int64, on the device: 0, 1, ... in each row
  at::Tensor first;      // [rows] int64, on the device: where each row starts
  at::Tensor offsets;    // [rows + 1] int64, on the CPU: row i is tokens [offsets[i], offsets[i + 1])
  int64_t rows() const { return labels.size(0); }
  // Without the fill; 0 for features.
  int64_t tokens() const { return offsets.defined() ? offsets.const_data_ptr<int64_t>()[rows()] : 0; }
};

// Packs the given rows of a shard of text. A row longer than max_length keeps its first max_length - 1 tokens and its
// last one ([SEP]), as tokenizers cut. max_length >= 2. INVALID_ARGUMENT naming the row: token outside the vocabulary,
// label outside [0, num_labels).
absl::StatusOr<Batch> PackRows(const DataShard& shard, std::span<const int64_t> rows, int64_t max_length,
                               int64_t num_labels, int64_t vocabulary, at::Device device);

// The given rows of a shard of features. INVALID_ARGUMENT naming the row: label outside [0, num_labels).
absl::StatusOr<Batch> GatherRows(const DataShard& shard, std::span<const int64_t> rows, int64_t num_labels,
                                 at::Device device);

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_BATCH_H_
