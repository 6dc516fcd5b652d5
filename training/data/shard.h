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

// One split, mapped from disk. Immutable. Rows are of tokens or of features. Tensors of the file: labels I32 [rows],
// and for tokens input_ids I32 [tokens] and row_offsets I64 [rows + 1]: row i is input_ids[row_offsets[i] ..
// row_offsets[i+1]), special tokens included; for features "features" F32 [rows, width] instead.
class DataShard {
 public:
  // DATA_LOSS: offsets that do not ascend or fit, lengths that disagree, a tensor not aligned to its elements, both
  // tokens and features. INVALID_ARGUMENT naming the row: a label outside [0, num_labels), a negative token; empty row;
  // a feature that is not finite.
  static absl::StatusOr<std::unique_ptr<DataShard>> Open(const std::string& path, int64_t num_labels);

  int64_t rows() const { return static_cast<int64_t>(labels_.size()); }
  // 0 where rows are of features.
  int64_t tokens() const { return static_cast<int64_t>(input_ids_.size()); }
  // Features a row has; 0 where rows are of tokens.
  int64_t width() const { return width_; }
  // Tokens of row i; none where rows are of features.
  std::span<const int32_t> row(int64_t i) const {
    if (width_ > 0) return {};
    return input_ids_.subspan(row_offsets_[i], row_offsets_[i + 1] - row_offsets_[i]);
  }
  // Features of row i; none where rows are of tokens.
  std::span<const float> features(int64_t i) const { return features_.subspan(i * width_, width_); }
  int32_t label(int64_t i) const { return labels_[i]; }

 private:
  explicit DataShard(SafetensorsFile file) : file_(std::move(file)) {}
  absl::Status ReadTokens(const std::string& path);
  absl::Status ReadFeatures(const std::string& path);

  SafetensorsFile file_;
  std::span<const int32_t> input_ids_;
  std::span<const int64_t> row_offsets_;
  std::span<const float> features_;  // [rows, width]
  int64_t width_ = 0;
  std::span<const int32_t> labels_;
};

// A prepared folder. manifest.json: {"format": "weft-data", "version": 1, "task": "sequence_classification", "labels":
// [...], "tokenizer_sha256": "...", "max_length": n, "splits": {"train": {"file": "train.safetensors", "rows": n,
// "tokens": n, "sha256": "..."}, ...}}. Only format, version, task, labels, and each split's file and rows are read, so
// that a folder of features needs no more; its splits have one width.
class DataFolder {
 public:
  // NOT_FOUND: folder, manifest or a named file missing (says to run `weft prepare`). INVALID_ARGUMENT: manifest
  // malformed, row counts that disagree with the file, splits of different kinds or widths. An absent split has no
  // shard; a split with no rows is an INVALID_ARGUMENT ("empty shard").
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
