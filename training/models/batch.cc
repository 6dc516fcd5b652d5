#include "training/models/batch.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "training/models/frozen_linear.h"

namespace weft {
namespace {

using Read = TaskDescription::Read;

absl::Status CheckRow(const DataShard& shard, int64_t row) {
  if (row >= 0 && row < shard.rows()) return shard.CheckRow(row);
  return absl::InvalidArgumentError(absl::StrCat("row ", row, " asked for, the shard has ", shard.rows()));
}

absl::Status CheckLabel(const DataShard& shard, int64_t row, int64_t num_labels) {
  WEFT_RETURN_IF_ERROR(CheckRow(shard, row));
  if (shard.label(row) >= 0 && shard.label(row) < num_labels) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("row ", row, " has label ", shard.label(row), ", the job has ",
                                                 num_labels, " labels; prepare the data with the job's labels"));
}

// A copy on the device, filled up to a multiple with `fill`.
at::Tensor ToDevice(std::vector<int64_t>& values, at::Device device, bool fill_up, int64_t fill) {
  if (fill_up && device.is_cpu()) {
    constexpr size_t kMultiple = FrozenLinear::kRowMultiple;
    values.resize((values.size() + kMultiple - 1) / kMultiple * kMultiple, fill);
  }
  const at::Tensor result = at::empty({static_cast<int64_t>(values.size())}, at::TensorOptions(at::kLong));
  std::copy(values.begin(), values.end(), result.mutable_data_ptr<int64_t>());
  return result.to(device);
}

// Puts rows of tokens one after another, and notes what is read of each.
class Packer {
 public:
  Packer(const BatchOptions& options, at::Device device) : options_(options), device_(device) {}

  // A row of `length` tokens beside the prompt's; `prompt_at`: how many of them come before it. Returns the row's first
  // place.
  int64_t AddRow(int64_t length, int64_t prompt_at) {
    const int64_t first = places(), places_of_row = length + options_.prompt_tokens;
    for (int64_t i = 0; i < places_of_row; ++i) {
      const bool prompt = i >= prompt_at && i < prompt_at + options_.prompt_tokens;
      if (prompt) prompts_.push_back(first + i);
      if (options_.read == Read::kMean) rows_of_tokens_.push_back(static_cast<int64_t>(offsets_.size()) - 1);
      positions_.push_back(i);
    }
    ids_.resize(positions_.size(), 0);
    real_tokens_ += length;
    offsets_.push_back(places());
    if (options_.read == Read::kFirst) ReadPlace(0);
    if (options_.read == Read::kLast) ReadPlace(places_of_row - 1);
    if (options_.read != Read::kEach) CloseReads();
    return first;
  }
  void SetId(int64_t place, int64_t id) { ids_[place] = id; }
  // Of the row added last; in ascending order, then CloseReads.
  void ReadPlace(int64_t position) {
    reads_.push_back(offsets_[offsets_.size() - 2] + position);
    read_positions_.push_back(position);
  }
  void CloseReads() { read_offsets_.push_back(static_cast<int64_t>(reads_.size())); }

  // After the rows of one member, of which `labelled` lines the task counts.
  void EndMember(Batch* batch) {
    batch->rows.offsets.push_back(static_cast<int64_t>(offsets_.size()) - 1);
    batch->tokens.offsets.push_back(places());
    batch->read.offsets.push_back(options_.read == Read::kMean ? places() : static_cast<int64_t>(reads_.size()));
    batch->member_tokens.push_back(real_tokens_ - batch->real_tokens);
    batch->real_tokens = real_tokens_;
  }

  void Finish(Batch* batch) {
    const at::Device cpu(at::kCPU);
    if (options_.read != Read::kMean) {
      batch->read_attention.query_offsets = ToDevice(read_offsets_, cpu, false, 0);
      batch->read_attention.query_positions = ToDevice(read_positions_, cpu, false, 0);
      batch->read_places = ToDevice(reads_, device_, true, 0);
    } else {
      batch->row_of_token = ToDevice(rows_of_tokens_, device_, false, 0);
    }
    batch->attention.key_offsets = batch->attention.query_offsets = ToDevice(offsets_, cpu, false, 0);
    batch->read_attention.key_offsets = batch->attention.key_offsets;
    if (options_.prompt_tokens > 0) batch->prompt_places = ToDevice(prompts_, device_, false, 0);
    batch->ids = ToDevice(ids_, device_, true, 0);
    batch->positions = ToDevice(positions_, device_, true, 0);
  }

 private:
  int64_t places() const { return static_cast<int64_t>(positions_.size()); }

  const BatchOptions& options_;
  const at::Device device_;
  std::vector<int64_t> ids_, positions_, offsets_ = {0}, prompts_, rows_of_tokens_;
  std::vector<int64_t> reads_, read_positions_, read_offsets_ = {0};
  int64_t real_tokens_ = 0;
};

absl::Status CheckTokens(std::span<const int32_t> tokens, int64_t row, int64_t vocabulary) {
  for (const int32_t token : tokens) {
    if (token >= 0 && token < vocabulary) continue;
    return absl::InvalidArgumentError(absl::StrCat("row ", row, " holds token ", token, ", the base's vocabulary has ",
                                                   vocabulary, "; prepare the data with the base's tokenizer"));
  }
  return absl::OkStatus();
}

// Cuts as tokenizers do.
int64_t AddText(std::span<const int32_t> tokens, int64_t max_length, bool keep_last, Packer& packer,
                int64_t prompt_tokens) {
  const auto length = std::min<int64_t>(static_cast<int64_t>(tokens.size()), max_length);
  const int64_t first = packer.AddRow(length, /*prompt_at=*/0) + prompt_tokens;
  for (int64_t i = 0; i < length; ++i) packer.SetId(first + i, tokens[i]);
  if (keep_last) packer.SetId(first + length - 1, tokens.back());
  return length;
}

// Reads the place before each token that is to be learnt; the last of a prompt comes before the first token.
absl::Status AddLearnt(const DataShard& shard, int64_t row, int64_t max_length, const BatchOptions& options,
                       Packer& packer, std::vector<int64_t>& targets) {
  const std::span<const int32_t> tokens = shard.row(row);
  const int64_t length = AddText(tokens, max_length, /*keep_last=*/false, packer, options.prompt_tokens);
  const std::span<const uint8_t> learn = shard.learn(row);
  const size_t before = targets.size();
  for (int64_t i = options.prompt_tokens > 0 ? 0 : 1; i < length; ++i) {
    if (learn[i] == 0) continue;
    packer.ReadPlace(options.prompt_tokens + i - 1);
    targets.push_back(tokens[i]);
  }
  packer.CloseReads();
  if (targets.size() > before) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("row ", row, " has no token to learn within the first ", length,
                                                 "; raise training.max_length (", max_length,
                                                 "), or prepare the data without such rows"));
}

absl::Status AddTextRow(const MemberRows& member, int64_t row, const BatchOptions& options, int64_t vocabulary,
                        Packer& packer, std::vector<int64_t>& targets) {
  const DataShard& shard = *member.shard;
  WEFT_RETURN_IF_ERROR(CheckRow(shard, row));
  WEFT_RETURN_IF_ERROR(CheckTokens(shard.row(row), row, vocabulary));
  switch (shard.kind()) {
    case RowKind::kLearn:
      return AddLearnt(shard, row, member.max_length, options, packer, targets);
    case RowKind::kPairs:
      WEFT_RETURN_IF_ERROR(CheckTokens(shard.partner(row), row, vocabulary));
      AddText(shard.row(row), member.max_length, true, packer, options.prompt_tokens);
      AddText(shard.partner(row), member.max_length, true, packer, options.prompt_tokens);
      return absl::OkStatus();
    default:
      WEFT_RETURN_IF_ERROR(CheckLabel(shard, row, options.num_labels));
      AddText(shard.row(row), member.max_length, true, packer, options.prompt_tokens);
      targets.push_back(shard.label(row));
      return absl::OkStatus();
  }
}

}  // namespace

absl::StatusOr<Batch> MakeTextBatch(std::span<const MemberRows> members, const BatchOptions& options,
                                    const Transformer& transformer, at::Device device, int64_t* member) {
  Batch batch;
  Packer packer(options, device);
  std::vector<int64_t> targets;
  for (*member = 0; *member < static_cast<int64_t>(members.size()); ++*member) {
    const MemberRows& own = members[*member];
    for (const int64_t row : own.rows) {
      WEFT_RETURN_IF_ERROR(AddTextRow(own, row, options, transformer.vocabulary, packer, targets));
    }
    packer.EndMember(&batch);
  }
  packer.Finish(&batch);
  if (!targets.empty()) batch.targets = ToDevice(targets, at::kCPU, false, 0);
  return batch;
}

absl::StatusOr<Batch> MakeTokenBatch(std::span<const int32_t> tokens, int64_t prompt_tokens,
                                     const Transformer& transformer, at::Device device) {
  WEFT_RETURN_IF_ERROR(CheckTokens(tokens, /*row=*/0, transformer.vocabulary));
  Batch batch;
  const BatchOptions options{.prompt_tokens = prompt_tokens, .read = Read::kMean};
  Packer packer(options, device);
  AddText(tokens, static_cast<int64_t>(tokens.size()), /*keep_last=*/false, packer, prompt_tokens);
  packer.EndMember(&batch);
  packer.Finish(&batch);
  return batch;
}

absl::StatusOr<Batch> MakeImageBatch(std::span<const MemberRows> members, const BatchOptions& options,
                                     const Transformer& transformer, at::Device device, int64_t* member) {
  Batch batch;
  Packer packer(options, device);
  std::vector<int64_t> targets;
  int64_t count = 0;
  for (const MemberRows& own : members) count += static_cast<int64_t>(own.rows.size());
  const Patches& patches = *transformer.patches;
  const int64_t size = patches.image_size, plane = size * size;
  const at::Tensor pixels = at::empty({count, patches.channels, size, size}, at::TensorOptions(at::kFloat));
  auto* to = pixels.mutable_data_ptr<float>();
  for (*member = 0; *member < static_cast<int64_t>(members.size()); ++*member) {
    const MemberRows& own = members[*member];
    for (const int64_t row : own.rows) {
      WEFT_RETURN_IF_ERROR(CheckLabel(*own.shard, row, options.num_labels));
      targets.push_back(own.shard->label(row));
      const std::span<const uint8_t> from = own.shard->pixels(row);
      for (int64_t c = 0; c < patches.channels; ++c) {
        const float scale = 1 / (255 * own.shard->image_std()[c]),
                    shift = own.shard->image_mean()[c] / own.shard->image_std()[c];
        for (int64_t i = 0; i < plane; ++i) *to++ = static_cast<float>(from[c * plane + i]) * scale - shift;
      }
      packer.AddRow(1 + patches.count(), /*prompt_at=*/1);
    }
    packer.EndMember(&batch);
  }
  packer.Finish(&batch);
  batch.pixels = pixels.to(device);
  batch.targets = ToDevice(targets, at::kCPU, false, 0);
  return batch;
}

absl::StatusOr<Batch> MakeFeatureBatch(std::span<const MemberRows> members, const BatchOptions& options,
                                       at::Device device, int64_t* member) {
  Batch batch;
  std::vector<int64_t> targets;
  int64_t count = 0;
  for (const MemberRows& own : members) count += static_cast<int64_t>(own.rows.size());
  const int64_t width = members.front().shard->width();
  batch.features = at::empty({count, width}, at::TensorOptions(at::kFloat));
  auto* to = batch.features.mutable_data_ptr<float>();
  for (*member = 0; *member < static_cast<int64_t>(members.size()); ++*member) {
    const MemberRows& own = members[*member];
    for (const int64_t row : own.rows) {
      WEFT_RETURN_IF_ERROR(CheckLabel(*own.shard, row, options.num_labels));
      targets.push_back(own.shard->label(row));
      const std::span<const float> from = own.shard->features(row);
      std::memcpy(to, from.data(), from.size_bytes());
      to += width;
    }
    batch.rows.offsets.push_back(static_cast<int64_t>(targets.size()));
    batch.tokens.offsets.push_back(0);
    batch.read.offsets.push_back(static_cast<int64_t>(targets.size()));
    batch.member_tokens.push_back(0);
  }
  batch.features = batch.features.to(device);
  batch.targets = ToDevice(targets, at::kCPU, false, 0);
  return batch;
}

}  // namespace weft
