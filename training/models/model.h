#ifndef WEFT_TRAINING_MODELS_MODEL_H_
#define WEFT_TRAINING_MODELS_MODEL_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "training/data/shard.h"
#include "training/forms/form.h"
#include "training/models/batch.h"
#include "training/models/frozen_linear.h"

namespace weft {

// A base's frozen network up to its head: what the training loop sees of it. A kind of network is one class; families
// within a kind are tables (family.h). Adapters attach to its linear modules; no activation is kept and no gradient
// computed below the first of them. Immutable: threads may share it.
class Model {
 public:
  virtual ~Model() = default;

  // Modules a form can attach to, as adapters/families describe them, in that order.
  virtual const std::vector<FrozenLinear>& linears() const = 0;
  // Longest row in tokens; 0 where rows have no length.
  virtual int64_t max_length() const = 0;
  // INVALID_ARGUMENT: the shard's rows are of another kind or width than the network reads.
  virtual absl::Status CheckShard(const DataShard& shard) const = 0;
  // The given rows of a shard that CheckShard takes, on the device, cut to max_length tokens. INVALID_ARGUMENT naming
  // the row: a label outside [0, num_labels), values outside what the network knows.
  virtual absl::StatusOr<Batch> MakeBatch(const DataShard& shard, std::span<const int64_t> rows, int64_t max_length,
                                          int64_t num_labels) const = 0;
  // What the head reads: [rows, hidden]. `linears`: linears(), or what stands in their place, in their order. `form`
  // has an entry per linear.
  virtual at::Tensor Forward(const Batch& batch, const std::vector<FrozenLinear>& linears, const AttachedForm& form,
                             DropoutSource& dropout) const = 0;

 protected:
  // The linear at `index` with what is attached to it.
  static at::Tensor RunLinear(size_t index, const at::Tensor& x, const std::vector<FrozenLinear>& linears,
                              const AttachedForm& form, DropoutSource& dropout) {
    const LinearAdapter* adapter = form[index].get();
    return adapter == nullptr ? linears[index].Forward(x) : adapter->Forward(linears[index], x, dropout);
  }
};

}  // namespace weft

#endif  // WEFT_TRAINING_MODELS_MODEL_H_
