#include "training/models/batch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "training/models/frozen_linear.h"

namespace weft {
namespace {

absl::Status CheckLabel(const DataShard& shard, int64_t row, int64_t num_labels) {
  if (row < 0 || row >= shard.rows()) {
    return absl::InvalidArgumentError(absl::StrCat("row ", row, " asked for, the shard has ", shard.rows()));
  }
  if (shard.label(row) < 0 || shard.label(row) >= num_labels) {
    return absl::InvalidArgumentError(absl::StrCat("row ", row, " has label ", shard.label(row), ", the job has ",
                                                   num_labels, " labels; prepare the data with the job's labels"));
  }
  return absl::OkStatus();
}

absl::Status CheckTokens(const DataShard& shard, int64_t row, int64_t vocabulary) {
  for (const int32_t token : shard.row(row)) {
    if (token < 0 || token >= vocabulary) {
      return absl::InvalidArgumentError(absl::StrCat("row ", row, " holds token ", token,
                                                     ", the base's vocabulary has ", vocabulary,
                                                     "; prepare the data with the base's tokenizer"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Batch> PackRows(const DataShard& shard, std::span<const int64_t> rows, int64_t max_length,
                               int64_t num_labels, int64_t vocabulary, at::Device device) {
  const at::TensorOptions options(at::kLong);
  const auto count = static_cast<int64_t>(rows.size());
  const at::Tensor offsets = at::empty({count + 1}, options), labels = at::empty({count}, options);
  auto* offset = offsets.mutable_data_ptr<int64_t>();
  auto* label = labels.mutable_data_ptr<int64_t>();
  offset[0] = 0;
  for (int64_t i = 0; i < count; ++i) {
    WEFT_RETURN_IF_ERROR(CheckLabel(shard, rows[i], num_labels));
    WEFT_RETURN_IF_ERROR(CheckTokens(shard, rows[i], vocabulary));
    label[i] = shard.label(rows[i]);
    offset[i + 1] = offset[i] + std::min<int64_t>(shard.row(rows[i]).size(), max_length);
  }
  const int64_t multiple = device.is_cpu() ? FrozenLinear::kRowMultiple : 1;
  const int64_t places = (offset[count] + multiple - 1) / multiple * multiple;
  const at::Tensor ids = at::zeros({places}, options), positions = at::zeros({places}, options);
  for (int64_t i = 0; i < count; ++i) {
    const std::span<const int32_t> row = shard.row(rows[i]);
    const int64_t length = offset[i + 1] - offset[i];
    int64_t* id = ids.mutable_data_ptr<int64_t>() + offset[i];
    int64_t* position = positions.mutable_data_ptr<int64_t>() + offset[i];
    for (int64_t j = 0; j < length; ++j) {
      id[j] = row[j];
      position[j] = j;
    }
    id[length - 1] = row.back();
  }
  return Batch{.labels = labels.to(device),
               .features = {},
               .ids = ids.to(device),
               .positions = positions.to(device),
               .first = offsets.slice(0, 0, count).to(device),
               .offsets = offsets};
}

absl::StatusOr<Batch> GatherRows(const DataShard& shard, std::span<const int64_t> rows, int64_t num_labels,
                                 at::Device device) {
  const auto count = static_cast<int64_t>(rows.size());
  Batch batch;
  batch.labels = at::empty({count}, at::TensorOptions(at::kLong));
  batch.features = at::empty({count, shard.width()}, at::TensorOptions(at::kFloat));
  auto* label = batch.labels.mutable_data_ptr<int64_t>();
  auto* features = batch.features.mutable_data_ptr<float>();
  for (int64_t i = 0; i < count; ++i) {
    WEFT_RETURN_IF_ERROR(CheckLabel(shard, rows[i], num_labels));
    label[i] = shard.label(rows[i]);
    const std::span<const float> row = shard.features(rows[i]);
    std::memcpy(features + i * shard.width(), row.data(), row.size_bytes());
  }
  batch.labels = batch.labels.to(device);
  batch.features = batch.features.to(device);
  return batch;
}

}  // namespace weft
