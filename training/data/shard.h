#ifndef WEFT_TRAINING_DATA_SHARD_H_
#define WEFT_TRAINING_DATA_SHARD_H_

// A client's prepared data, as `weft prepare` writes it: manifest.json and one safetensors file per split. Torch-free.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/safetensors.h"

namespace weft {

// One split, mapped from disk. Immutable. Tensors of the file: input_ids I32 [tokens], row_offsets I64 [rows + 1],
// labels I32 [rows]; row i is input_ids[row_offsets[i] .. row_offsets[i+1]), special tokens included.
class DataShard {
 public:
  // DATA_LOSS: offsets that do not ascend or fit, lengths that disagree, a tensor not aligned to its elements.
  // INVALID_ARGUMENT naming the row: a label outside [0, num_labels), a negative token; empty row.
  static absl::StatusOr<std::unique_ptr<DataShard>> Open(const std::string& path, int64_t num_labels);

  int64_t rows() const { return static_cast<int64_t>(labels_.size()); }
  int64_t tokens() const { return static_cast<int64_t>(input_ids_.size()); }
  std::span<const int32_t> row(int64_t i) const {
    return input_ids_.subspan(row_offsets_[i], row_offsets_[i + 1] - row_offsets_[i]);
  }
  int32_t label(int64_t i) const { return labels_[i]; }

 private:
  explicit DataShard(SafetensorsFile file) : file_(std::move(file)) {}
  SafetensorsFile file_;
  std::span<const int32_t> input_ids_;
  std::span<const int64_t> row_offsets_;
  std::span<const int32_t> labels_;
};

// A prepared folder. manifest.json: {"format": "weft-data", "version": 1, "task": "sequence_classification", "labels":
// [...], "tokenizer_sha256": "...", "max_length": n, "splits": {"train": {"file": "train.safetensors", "rows": n,
// "tokens": n, "sha256": "..."}, ...}}.
class DataFolder {
 public:
  // NOT_FOUND: folder, manifest or a named file missing (says to run `weft prepare`). INVALID_ARGUMENT: manifest
  // malformed, or row counts that disagree with the file. An absent split has no shard; a split with no rows is an
  // INVALID_ARGUMENT ("empty shard").
  static absl::StatusOr<DataFolder> Open(const std::string& folder);

  const std::string& task() const { return task_; }
  const std::vector<std::string>& labels() const { return labels_; }
  // nullptr when the folder has no such split.
  const DataShard* split(const std::string& name) const;
  // Rows of a split, 0 when absent.
  int64_t rows(const std::string& name) const;

 private:
  std::string task_;
  std::vector<std::string> labels_;
  std::map<std::string, std::unique_ptr<DataShard>> splits_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_DATA_SHARD_H_
