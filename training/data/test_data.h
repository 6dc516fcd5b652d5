#ifndef WEFT_TRAINING_DATA_TEST_DATA_H_
#define WEFT_TRAINING_DATA_TEST_DATA_H_

// Small prepared data for tests.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "adapters/safetensors.h"

namespace weft {

// The three tensors of a split, as they lie in the file.
struct TestSplit {
  std::vector<int32_t> input_ids;
  std::vector<int64_t> row_offsets = {0};
  std::vector<int32_t> labels;

  TestSplit& Add(const std::vector<int32_t>& tokens, int32_t label) {
    input_ids.insert(input_ids.end(), tokens.begin(), tokens.end());
    row_offsets.push_back(static_cast<int64_t>(input_ids.size()));
    labels.push_back(label);
    return *this;
  }
};

template <typename T>
SafetensorToWrite TestTensor(const std::string& name, const std::string& dtype, std::vector<int64_t> shape,
                             const std::vector<T>& values) {
  return {.name = name, .dtype = dtype, .shape = std::move(shape), .data = std::as_bytes(std::span<const T>(values))};
}

// row_offsets first, so that 8-byte elements lie at multiples of 8 (as Python's safetensors orders them too).
inline absl::Status WriteTestSplit(const std::string& path, const TestSplit& split) {
  const auto size = [](const auto& values) { return static_cast<int64_t>(values.size()); };
  return WriteSafetensors(path, {TestTensor("row_offsets", "I64", {size(split.row_offsets)}, split.row_offsets),
                                 TestTensor("input_ids", "I32", {size(split.input_ids)}, split.input_ids),
                                 TestTensor("labels", "I32", {size(split.labels)}, split.labels)});
}

// A split of rows of features.
struct TestFeatures {
  int64_t width = 0;
  std::vector<float> features;  // [rows, width]
  std::vector<int32_t> labels;

  TestFeatures& Add(const std::vector<float>& row, int32_t label) {
    width = static_cast<int64_t>(row.size());
    features.insert(features.end(), row.begin(), row.end());
    labels.push_back(label);
    return *this;
  }
};

inline absl::Status WriteTestFeatures(const std::string& path, const TestFeatures& split) {
  const auto rows = static_cast<int64_t>(split.labels.size());
  return WriteSafetensors(path, {TestTensor("features", "F32", {rows, split.width}, split.features),
                                 TestTensor("labels", "I32", {rows}, split.labels)});
}

// A split of texts to learn.
struct TestLearn {
  std::vector<int32_t> input_ids;
  std::vector<int64_t> row_offsets = {0};
  std::vector<uint8_t> learn;

  TestLearn& Add(const std::vector<int32_t>& tokens, const std::vector<uint8_t>& learnt) {
    input_ids.insert(input_ids.end(), tokens.begin(), tokens.end());
    row_offsets.push_back(static_cast<int64_t>(input_ids.size()));
    learn.insert(learn.end(), learnt.begin(), learnt.end());
    return *this;
  }
};

inline absl::Status WriteTestLearn(const std::string& path, const TestLearn& split) {
  const auto size = [](const auto& values) { return static_cast<int64_t>(values.size()); };
  return WriteSafetensors(path, {TestTensor("row_offsets", "I64", {size(split.row_offsets)}, split.row_offsets),
                                 TestTensor("input_ids", "I32", {size(split.input_ids)}, split.input_ids),
                                 TestTensor("learn", "U8", {size(split.learn)}, split.learn)});
}

// A split of pairs of texts.
struct TestPairs {
  std::vector<int32_t> input_ids;
  std::vector<int64_t> row_offsets = {0};

  TestPairs& Add(const std::vector<int32_t>& first, const std::vector<int32_t>& second) {
    for (const std::vector<int32_t>& tokens : {first, second}) {
      input_ids.insert(input_ids.end(), tokens.begin(), tokens.end());
      row_offsets.push_back(static_cast<int64_t>(input_ids.size()));
    }
    return *this;
  }
};

inline absl::Status WriteTestPairs(const std::string& path, const TestPairs& split) {
  const auto size = [](const auto& values) { return static_cast<int64_t>(values.size()); };
  return WriteSafetensors(path, {TestTensor("row_offsets", "I64", {size(split.row_offsets)}, split.row_offsets),
                                 TestTensor("input_ids", "I32", {size(split.input_ids)}, split.input_ids)});
}

// A split of images.
struct TestImages {
  std::vector<int64_t> size = {1, 2, 2};  // channels, height, width
  std::vector<uint8_t> pixels;            // [rows, channels, height, width]
  std::vector<int32_t> labels;
  std::map<std::string, std::string> metadata = {{"image_mean", "0.5"}, {"image_std", "0.5"}};

  TestImages& Add(const std::vector<uint8_t>& image, int32_t label) {
    pixels.insert(pixels.end(), image.begin(), image.end());
    labels.push_back(label);
    return *this;
  }
};

inline absl::Status WriteTestImages(const std::string& path, const TestImages& split) {
  const auto rows = static_cast<int64_t>(split.labels.size());
  std::vector<int64_t> shape = split.size;
  shape.insert(shape.begin(), rows);
  return WriteSafetensors(
      path, {TestTensor("labels", "I32", {rows}, split.labels), TestTensor("pixels", "U8", shape, split.pixels)},
      split.metadata);
}

}  // namespace weft

#endif  // WEFT_TRAINING_DATA_TEST_DATA_H_
