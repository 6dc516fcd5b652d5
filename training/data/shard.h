#ifndef WEFT_TRAINING_DATA_SHARD_H_
#define WEFT_TRAINING_DATA_SHARD_H_

// A client's prepared data, as `weft prepare` writes it: manifest.json and one safetensors file per split. Torch-free.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/safetensors.h"
#include "nlohmann/json_fwd.hpp"

namespace weft {

enum class RowKind {
  kText,      // a text and its label
  kFeatures,  // numbers and their label
  kImages,    // an image and its label
  kPairs,     // two texts that belong together
  kLearn,     // a text, of which some tokens are to be predicted
};

// One split, mapped from disk. Immutable. Its tensors tell the kind:
//   text      input_ids I32 [tokens], row_offsets I64 [rows + 1], labels I32 [rows]: row i is input_ids[row_offsets[i]
//   ..
//             row_offsets[i+1]), special tokens included
//   learn     input_ids and row_offsets likewise, learn U8 [tokens]: 1 where the token is to be predicted, else 0
//   pairs     input_ids likewise, row_offsets I64 [2 * rows + 1]: texts 2i and 2i+1 are row i
//   images    pixels U8 [rows, channels, height, width], labels I32 [rows]; metadata image_mean and image_std, a number
//   per
//             channel with commas between: a value is (pixel / 255 - mean) / std
//   features  features F32 [rows, width], labels I32 [rows]
// Any kind may have columns beside: group.<column> I32 [rows], which name the manifest gives each row in that column.
class DataShard {
 public:
  // Reads labels, offsets and features; tokens, `learn` and pixels stay on disk until a row is used (CheckRow).
  // `num_labels`: of the classifications, 0 for other tasks. DATA_LOSS: tensors of no kind or of two, of another dtype
  // or shape, not aligned to their elements; offsets that do not ascend or fit, lengths that disagree; image_mean or
  // image_std missing or malformed. INVALID_ARGUMENT naming the row: a label outside [0, num_labels), a text without
  // tokens, a feature that is not finite.
  static absl::StatusOr<std::unique_ptr<DataShard>> Open(const std::string& path, int64_t num_labels);

  // Some of the rows, in this order, as often as they are named: a shard of its own over the same file, of which
  // nothing is copied. INVALID_ARGUMENT: a row that there is not.
  absl::StatusOr<std::unique_ptr<DataShard>> Select(std::vector<uint32_t> rows) const;
  // Values of its own in place of the file's. labels: [rows]; pixels: [rows, channels, height, width_pixels].
  void SetLabels(std::vector<int32_t> labels) { own_labels_ = std::move(labels); }
  void SetPixels(std::vector<uint8_t> pixels) { own_pixels_ = std::move(pixels); }

  RowKind kind() const { return kind_; }
  int64_t rows() const { return rows_; }
  // The kind with its sizes, for messages: "rows of tokens", "images of 1 x 28 x 28".
  std::string Describe() const;

  // Of all texts; 0 where rows are of images or features.
  int64_t tokens() const { return tokens_; }
  // Tokens of the longest text; 0 where rows are of images or features.
  int64_t longest_row() const { return longest_row_; }
  // Tokens of row i, of pairs those of the first text; none where rows are of images or features.
  std::span<const int32_t> row(int64_t i) const { return Text(kind_ == RowKind::kPairs ? 2 * At(i) : At(i)); }
  // Of pairs: tokens of the second text of row i.
  std::span<const int32_t> partner(int64_t i) const { return Text(2 * At(i) + 1); }
  // Of learn: one for each token of row(i), 1 where it is to be predicted.
  std::span<const uint8_t> learn(int64_t i) const {
    return learn_.subspan(row_offsets_[At(i)], row_offsets_[At(i) + 1] - row_offsets_[At(i)]);
  }

  // Features a row has; 0 where rows are of something else.
  int64_t width() const { return width_; }
  std::span<const float> features(int64_t i) const { return features_.subspan(At(i) * width_, width_); }

  // 0 where rows are no images.
  int64_t channels() const { return channels_; }
  int64_t height() const { return height_; }
  int64_t width_pixels() const { return width_pixels_; }
  // [channels, height, width_pixels] of row i.
  std::span<const uint8_t> pixels(int64_t i) const {
    const int64_t size = channels_ * height_ * width_pixels_;
    return own_pixels_.empty() ? pixels_.subspan(At(i) * size, size) : std::span(own_pixels_).subspan(i * size, size);
  }
  // [channels]
  std::span<const float> image_mean() const { return image_mean_; }
  std::span<const float> image_std() const { return image_std_; }

  // Of text, images and features.
  int32_t label(int64_t i) const { return own_labels_.empty() ? labels_[At(i)] : own_labels_[i]; }

  // For each row of the file, which of the names of `column` it has; empty where there is no such column. Of a
  // selection, those of the rows that it was made of.
  std::span<const int32_t> group(const std::string& column) const {
    const auto found = groups_.find(column);
    return found == groups_.end() ? std::span<const int32_t>() : found->second;
  }

  // Reads row i. INVALID_ARGUMENT naming it: a negative token; of learn also a value beyond 1, or nothing to learn.
  // Tokens are compared with a vocabulary by who knows it.
  absl::Status CheckRow(int64_t i) const;

 private:
  DataShard(SafetensorsFile file, std::string path)
      : file_(std::make_shared<const SafetensorsFile>(std::move(file))), path_(std::move(path)) {}
  DataShard(const DataShard&) = default;
  absl::Status ReadKind(int64_t num_labels);
  absl::Status ReadLabels(int64_t num_labels);
  absl::Status ReadTokens();
  absl::Status ReadFeatures();
  absl::Status ReadImages();
  absl::Status ReadGroups();
  void CountTokens();
  absl::Status CheckRowCount(const std::string& what) const;
  absl::StatusOr<std::vector<float>> ReadPerChannel(const std::string& name) const;
  // The row of the file that row i is.
  int64_t At(int64_t i) const { return index_.empty() ? i : static_cast<int64_t>(index_[static_cast<size_t>(i)]); }
  std::span<const int32_t> Text(int64_t i) const {
    if (row_offsets_.empty()) return {};
    return input_ids_.subspan(row_offsets_[i], row_offsets_[i + 1] - row_offsets_[i]);
  }

  std::shared_ptr<const SafetensorsFile> file_;
  std::string path_;  // for messages
  RowKind kind_ = RowKind::kText;
  std::vector<uint32_t> index_;  // of a selection: the rows of the file that it has
  int64_t rows_ = 0;
  int64_t tokens_ = 0;
  std::span<const int32_t> input_ids_;
  std::span<const int64_t> row_offsets_;
  std::span<const uint8_t> learn_;
  int64_t longest_row_ = 0;
  std::span<const float> features_;  // [rows, width]
  int64_t width_ = 0;
  std::span<const uint8_t> pixels_;  // [rows, channels, height, width]
  int64_t channels_ = 0, height_ = 0, width_pixels_ = 0;
  std::vector<float> image_mean_, image_std_;
  std::span<const int32_t> labels_;
  std::map<std::string, std::span<const int32_t>> groups_;  // by column
  std::vector<int32_t> own_labels_;
  std::vector<uint8_t> own_pixels_;
};

// A prepared folder. manifest.json: {"format": "weft-data", "version": 1, "task": "sequence_classification", "labels":
// [...], "tokenizer_sha256": "...", "max_length": n, "splits": {"train": {"file": "train.safetensors", "rows": n,
// "tokens": n, "sha256": "..."}, ...}, "groups": {"<column>": ["...", ...]}}. Only format, version, task, labels,
// groups, and each split's file and rows are read. The task is a type of proto/job.proto; its kind of rows:
// sequence_classification text or features, image_classification images or features, causal_lm learn,
// sentence_embedding pairs. Labels are there for the classifications alone.
class DataFolder {
 public:
  // NOT_FOUND: folder, manifest or a named file missing (says to run `weft prepare`). INVALID_ARGUMENT: manifest
  // malformed, another task, labels missing or out of place, row counts that disagree with the file, rows of another
  // kind than the task's, splits of different kinds, widths or image sizes, a split without a column that the manifest
  // has, or with a row of none of its names. An absent split has no shard; a split with
  // no rows is an INVALID_ARGUMENT ("empty shard").
  static absl::StatusOr<DataFolder> Open(const std::string& folder);

  const std::string& task() const { return task_; }
  // Empty where the task has none.
  const std::vector<std::string>& labels() const { return labels_; }
  const std::map<std::string, std::unique_ptr<DataShard>>& splits() const { return splits_; }
  // The names that rows have in a column, by column: DataShard::group are indices into them.
  const std::map<std::string, std::vector<std::string>>& groups() const { return groups_; }
  // nullptr when the folder has no such split.
  const DataShard* split(const std::string& name) const;
  // Rows of a split, 0 when absent.
  int64_t rows(const std::string& name) const;

 private:
  absl::Status ReadGroups(const std::string& path, const nlohmann::json& manifest);

  std::string task_;
  std::vector<std::string> labels_;
  std::map<std::string, std::unique_ptr<DataShard>> splits_;
  std::map<std::string, std::vector<std::string>> groups_;
};

}  // namespace weft

#endif  // WEFT_TRAINING_DATA_SHARD_H_
