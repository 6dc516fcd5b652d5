#ifndef WEFT_TRAINING_MODELS_PACKED_BATCH_H_
#define WEFT_TRAINING_MODELS_PACKED_BATCH_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "training/data/shard.h"
#include "training/models/family.h"

namespace weft {

// Rows of text one after another, without padding: linear layers see [tokens, hidden], and attention keeps the rows
// apart.
struct PackedBatch {
  at::Tensor ids;        // [tokens] int64, on the device
  at::Tensor positions;  // [tokens] int64, on the device: 0, 1, ... in each row
  at::Tensor first;      // [rows] int64, on the device: where each row starts
  at::Tensor offsets;    // [rows + 1] int64, on the CPU: row i is tokens [offsets[i], offsets[i + 1])
  at::Tensor labels;     // [rows] int64, on the device
  int64_t rows() const { return labels.size(0); }
  // Without the fill.
  int64_t tokens() const { return offsets.const_data_ptr<int64_t>()[rows()]; }
};

// Packs the given rows of a shard. A row longer than max_length keeps its first max_length - 1 tokens and its last one
// ([SEP]), as tokenizers cut. 2 <= max_length <= config.max_positions. INVALID_ARGUMENT naming the row: token outside
// the vocabulary, label outside [0, num_labels).
absl::StatusOr<PackedBatch> PackRows(const DataShard& shard, std::span<const int64_t> rows, int64_t max_length,
                                     int64_t num_labels, const EncoderConfig& config, at::Device device);

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_PACKED_BATCH_H_
