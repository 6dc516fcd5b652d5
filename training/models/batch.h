#ifndef WEFT_TRAINING_MODELS_BATCH_H_
#define WEFT_TRAINING_MODELS_BATCH_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/base.h"
#include "training/data/shard.h"
#include "training/ops/attention.h"
#include "training/ops/segments.h"

namespace weft {

// The rows of one member in one pass.
struct MemberRows {
  const DataShard* shard = nullptr;
  std::vector<int64_t> rows;
  int64_t max_length = 0;  // a row of text is cut to this many tokens
};

struct BatchOptions {
  int64_t num_labels = 0;     // of classifications
  int64_t prompt_tokens = 0;  // places kept free in each row, in front or behind the class token
  TaskDescription::Read read = TaskDescription::Read::kFirst;
};

// The rows of one pass, member after member. Rows of tokens lie one after another, without padding: linear layers see
// [tokens, hidden], attention keeps the rows apart. On the CPU numbers of tokens and of places read are filled up to a
// multiple of FrozenLinear::kRowMultiple.
struct Batch {
  Segments rows;                       // whose rows; of pairs, whose texts: two of each pair, one after the other
  Segments tokens;                     // whose tokens; none for features
  Segments read;                       // whose places of `read_places`, or of all tokens where it is undefined
  int64_t real_tokens = 0;             // prompts and fill aside; 0 for features
  std::vector<int64_t> member_tokens;  // of those, each member's

  at::Tensor features;  // [rows, width] fp32, on the device

  at::Tensor ids;        // [tokens] int64, on the device: 0 in places of prompts and fill
  at::Tensor positions;  // [tokens] int64, on the device: 0, 1, ... in each row
  at::Tensor pixels;     // [rows, channels, height, width] fp32, normalised, on the device

  AttentionRows attention;       // all tokens ask
  AttentionRows read_attention;  // only those read ask
  at::Tensor read_places;        // [places] int64, on the device; undefined: all tokens are read
  at::Tensor prompt_places;      // [rows * prompt_tokens] int64, on the device; undefined: no prompt
  at::Tensor row_of_token;       // [real tokens and prompts] int64, on the device; for means only

  // [rows] labels, or [places read] the token that each place predicts; int64 on the CPU. Undefined for pairs.
  at::Tensor targets;
};

// INVALID_ARGUMENT naming the member's row: a token outside the vocabulary, a label outside [0, num_labels); of text to
// learn: nothing left to learn once it is cut. A row longer than max_length keeps its first max_length - 1 tokens and
// its last one ([SEP]), as tokenizers cut; one to learn keeps its first max_length. `member` gets whose row it was.
absl::StatusOr<Batch> MakeTextBatch(std::span<const MemberRows> members, const BatchOptions& options,
                                    const Transformer& transformer, at::Device device, int64_t* member);
// One row of tokens of which every place is read, for a text that goes on. INVALID_ARGUMENT: a token outside the
// vocabulary.
absl::StatusOr<Batch> MakeTokenBatch(std::span<const int32_t> tokens, int64_t prompt_tokens,
                                     const Transformer& transformer, at::Device device);
// INVALID_ARGUMENT naming the member's row: a label outside [0, num_labels).
absl::StatusOr<Batch> MakeImageBatch(std::span<const MemberRows> members, const BatchOptions& options,
                                     const Transformer& transformer, at::Device device, int64_t* member);
absl::StatusOr<Batch> MakeFeatureBatch(std::span<const MemberRows> members, const BatchOptions& options,
                                       at::Device device, int64_t* member);

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_BATCH_H_
